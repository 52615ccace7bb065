"How long a large shop takes: 1,000,000 customers and 100,000 items, block by block."
import time

from common import finish, peak_gib

from llm_emf.shop import ShopSettings, make_catalogue, simulate_users


def simulate(users: int, items: int) -> dict: # a row of the table
    "Simulate a shop and count its purchases."
    settings = ShopSettings(users=users, items=items // 2)
    began = time.perf_counter()
    blocks = simulate_users(make_catalogue(settings), settings)
    purchases = sum(int((bought > 0).sum()) for _, _, bought, _ in blocks)
    seconds = time.perf_counter() - began
    return {"users": users, "items": items, "purchases": purchases, "seconds": round(seconds, 1),
            "purchases/s": round(purchases / seconds), "peak GiB": peak_gib()}


rows = [simulate(100_000, 100_000), simulate(1_000_000, 100_000)]
finish("shop_scale", rows, 600 / rows[-1]["seconds"],
       ratio_means="times faster than the ten minutes asked for")
