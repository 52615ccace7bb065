"How long a large shop takes: 1,000,000 customers and 100,000 items, block by block."
import time

from common import finish, peak_gib

from llm_emf.shop import ShopSettings, make_catalogue, simulate_users

rows = []
for users, items in ((100_000, 100_000), (1_000_000, 100_000)):
    settings = ShopSettings(users=users, items=items // 2)
    began = time.perf_counter()
    catalogue = make_catalogue(settings)
    purchases = sum(int((bought > 0).sum()) for _, _, bought, _ in simulate_users(catalogue, settings))
    seconds = time.perf_counter() - began
    rows.append({"users": users, "items": items, "purchases": purchases, "seconds": round(seconds, 1), "purchases/s": round(purchases / seconds), "peak GiB": peak_gib()})
finish("shop_scale", rows, 600 / rows[-1]["seconds"], ratio_means="times faster than the ten minutes asked for")
