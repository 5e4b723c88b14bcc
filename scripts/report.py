"""The README's tables of results, from those that `progdtd.figures` wrote.

python scripts/report.py outputs/published --readme
"""

import argparse
from pathlib import Path

import pandas as pd
import readme

SHOWN = (0.05, 0.1, 0.3, 0.5, 1.0)
AGAINST = (
    "ProgDTD (published)", "JPEG progressive (prefix)", "JPEG 2000 (prefix)", "JPEG", "AVIF",
    "bmshj2018-hyperprior (published)", "DPICT (published)",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what `progdtd.figures out=` was given")
    parser.add_argument("--readme", action="store_true", help="put the tables into the README")
    options = parser.parse_args()
    levels = pd.read_csv(options.folder / "results.csv")
    deltas = pd.read_csv(options.folder / "bd.csv")
    report = f"{quality(levels)}\n\n{comparison(deltas)}"
    print(report)
    if options.readme:
        readme.put("results", report)


def quality(levels: pd.DataFrame) -> str:
    """Rate, PSNR and MS-SSIM of every model at some levels, whole images and real bytes."""
    ours = levels[(levels.protocol == "native") & levels["lambda"].notna()]
    lines = [
        f"| λ | range of p | {' | '.join(f'p = {p:g}' for p in SHOWN)} |",
        f"|---:|---|{'---:|' * len(SHOWN)}",
    ]
    for (lmbda, low, high), curve in ours.groupby(["lambda", "range_low", "range_high"]):
        points = curve.set_index("p")
        cells = [point(points.loc[p]) if p >= low else "" for p in SHOWN]
        lines.append(f"| {lmbda:g} | [{low:g}, {high:g}] | {' | '.join(cells)} |")
    images = ours.images.unique().tolist()
    return "\n".join([*lines, "", f"Bits per pixel, PSNR and MS-SSIM (dB), means of {images[0]} "
                      "images; bits are those of the prefix of one file."])  # fmt: skip


def point(row: pd.Series) -> str:
    return f"{row.bpp:.3f}: {row.psnr:.2f}, {row.ms_ssim_db:.2f}"


def comparison(deltas: pd.DataFrame) -> str:
    """BD-rate of every model against other codecs."""
    columns = [name for name in AGAINST if name in set(deltas.against)]
    lines = [
        f"| λ | range of p | {' | '.join(columns)} |",
        f"|---:|---|{'---:|' * len(columns)}",
    ]
    for (lmbda, low, high), rows in deltas.groupby(["lambda", "range_low", "range_high"]):
        rates = rows.set_index("against").bd_rate
        cells = ["" if pd.isna(rates.get(name)) else f"{rates[name]:+.0f} %" for name in columns]
        lines.append(f"| {lmbda:g} | [{low:g}, {high:g}] | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "BD-rate: bits for the same PSNR, relative to the other codec; "
                      "negative is better. Against the published ProgDTD with its own protocol, "
                      "against the others on whole images."])  # fmt: skip


if __name__ == "__main__":
    main()
