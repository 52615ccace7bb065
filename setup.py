"Packaging: everything is read from settings.ini; the notebooks travel inside the wheel, so that `llm-emf reproduce` works after `pip install`."
import runpy
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


class BuildWithNotebooks(build_py):
    "Copy nbs/*.ipynb to llm_emf/notebooks in the built package."

    def run(self):
        super().run()
        if self.editable_mode: return
        target = Path(self.build_lib) / cfg["lib_path"] / "notebooks"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((here / cfg["nbs_path"]).glob("[0-9]*.ipynb")): shutil.copy(path, target)
        write_stubs = runpy.run_path(str(here / ".ci" / "typed.py"))["write_stubs"]
        write_stubs(target.parent)  # *.pyi and py.typed, for type checkers


def extra(name): return cfg[f"{name}_requirements"].split()


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    packages=find_packages(include=["llm_emf", "llm_emf.*"]),
    package_data={"llm_emf": ["assets/*"]},
    cmdclass={"build_py": BuildWithNotebooks},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={name: extra(name) for name in ("dev", "docs", "duckdb", "export", "offline", "ray", "rectools", "serve", "server", "tune")},
    entry_points={"console_scripts": cfg["console_scripts"].split("\n"), "nbdev": ["llm_emf=llm_emf._modidx:d"]},
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research",
                 "License :: OSI Approved :: Apache Software License", "Programming Language :: Python :: 3"],
    zip_safe=False,
)
