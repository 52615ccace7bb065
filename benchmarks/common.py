"What the benchmarks share: the data, the machine, and where results go."
import datetime
import json
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from llm_emf.data import make_split, read_folder, shop_dataset
from llm_emf.shop import ShopSettings

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent/"shared"/"data"/"food-kitchen"


def load_data() -> tuple: # dataset, split
    "food-kitchen where it is at hand, else a shop of about its size."
    if REAL.exists():
        data = read_folder(REAL)
    else:
        data, _ = shop_dataset(ShopSettings(items=18_000, users=50_000, mean_length=8.5))
    return data, make_split(data)


def random_features(data, e=384) -> dict: # modality → vectors
    "Vectors of a sentence encoder's size. Speed does not depend on their values."
    rng = np.random.default_rng(0)
    return {"tex": torch.from_numpy(rng.standard_normal((data.n_items + 1, e), dtype=np.float32))}


def peak_gib(children: bool = False) -> float: # children: or one that it started and that has ended
    "The most memory that this process has had."
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)[:1 + children]
    return round(max(resource.getrusage(who).ru_maxrss for who in whose) / 2**20, 2)


def machine() -> dict:
    "What the figures depend on."
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "gpu": gpu}


def commit() -> str:
    "The commit that was measured."
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                          text=True)
    return done.stdout.strip()


def print_table(rows: list) -> None:
    "Rows of dicts as aligned columns."
    keys = list(dict.fromkeys(k for r in rows for k in r))
    for line in [keys] + [[str(r.get(k, "")) for k in keys] for r in rows]:
        print("  ".join([f"{line[0]:<34}"] + [f"{c:>16}" for c in line[1:]]))


def command() -> str:
    "The command line of this process, as one types it in the project's folder."
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def finish(name: str, rows: list, ratio: float, **more) -> None:
    "Print a table and write benchmarks/results/<name>.json."
    print_table(rows)
    print(f"ratio: {ratio:.1f}")
    result = {"name": name, "rows": rows, "ratio": round(ratio, 2),
              "command": command(), "date": datetime.date.today().isoformat(),
              "commit": commit(), **more,
              "machine": machine(), "peak_gib": peak_gib()}
    folder = ROOT/"benchmarks"/"results"
    folder.mkdir(exist_ok=True)
    (folder/f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
