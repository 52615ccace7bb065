"What the benchmarks share: the data, the machine, and where results go."
import datetime
import json
import platform
import resource
import subprocess
from pathlib import Path

import numpy as np
import torch

from llm_emf.data import make_split, read_folder, shop_dataset
from llm_emf.shop import ShopSettings

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent/"shared"/"data"/"food-kitchen"


def load_data():
    "food-kitchen where it is at hand, else a shop of about its size."
    if REAL.exists(): data = read_folder(REAL)
    else: data, _ = shop_dataset(ShopSettings(items=18_000, users=50_000, mean_length=8.5))
    return data, make_split(data)


def random_features(data, e=384):
    "Vectors of a sentence encoder's size. Speed does not depend on their values."
    return {"tex": torch.from_numpy(np.random.default_rng(0).standard_normal((data.n_items + 1, e), dtype=np.float32))}


def peak_gib() -> float: return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def finish(name: str, rows: list, ratio: float, **more) -> None:
    "Print a table and write benchmarks/results/<name>.json."
    keys = list(dict.fromkeys(k for r in rows for k in r))
    for line in [keys] + [[str(r.get(k, "")) for k in keys] for r in rows]: print("  ".join(f"{c:<34}" if i == 0 else f"{c:>16}" for i, c in enumerate(line)))
    print(f"ratio: {ratio:.1f}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    result = {"name": name, "rows": rows, "ratio": round(ratio, 2), "date": datetime.date.today().isoformat(), "commit": commit, **more,
              "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
                          "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}, "peak_gib": peak_gib()}
    (ROOT/"benchmarks"/"results").mkdir(exist_ok=True)
    (ROOT/"benchmarks"/"results"/f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
