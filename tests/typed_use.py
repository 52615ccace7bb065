"What a user writes, for the type checker alone (.ci/typed.py); comments mark errors to find."
from pathlib import Path

from llm_emf.recommend import Explanation, Recommender
from llm_emf.share import SharedRecommender
from llm_emf.task import Task, make_task

recommender = Recommender.load("runs/mine", method=None, device="cpu")
table = recommender.recommend(["SF00000155"], domain=None, k=3)
why: Explanation = recommender.explain(["SF00000155"], "SK00000648")
rank: int = why.rank
names: list[str] = [recommender.item_number("SF00000155")] # type: ignore[list-item]
recommender.recommand(["SF00000155"]) # type: ignore[attr-defined]
recommender.recommend(["SF00000155"], k="3") # type: ignore[arg-type]
manifest: Path = recommender.export_vectors("vectors", {"Ann": ["SF00000155"]}, form="parquet")
more: Recommender = recommender.add_items(table)
shared = SharedRecommender.from_pretrained("me/shop")
rows: int = shared.rows_at_a_time
task: Task = make_task(recommender.dataset)
ranks = task.rank(recommender.scorer, "test", sampled=False)
