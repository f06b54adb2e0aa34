"""Compare two recordings: python compare.py GOLDEN_DIR OTHER_DIR [--strict] [--only GLOB] [-v]

Normalised before comparing: ids by order of appearance, times, SSE ids and line endings, metadata that only LangGraph's
own server writes. Dropped: requests that the SDK makes by itself (GET of a run after a stream without `end`), heartbeats,
a last `end` event (ours has one, LangGraph's dev server has none), texts of error bodies (only their shape counts).
By default what OTHER has beyond GOLDEN is fine (more keys, more headers); --strict wants equality.
`deviations.json` beside this file lists what is meant to differ: [[scenario glob, call glob, why], ...].
Exit status: 1 when something differs that is not listed.
"""

import argparse
import fnmatch
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVER_OWN = {
    "run_attempt", "langgraph_version", "langgraph_api_version", "langgraph_plan", "langgraph_host",
    "langgraph_api_url", "langgraph_auth_user", "langgraph_auth_user_id", "langgraph_auth_permissions", "langgraph_request_id",
    "__request_start_time_ms__", "__after_seconds__", "__pregel_node_finished", "langsmith_session_name", "user_id",
    "lc_versions", "ls_integration", "response_schema", "checkpoint_during",
}
TIMES = {"created_at", "updated_at", "state_updated_at", "next_run_date", "timestamp", "webhook_sent_at", "run_started_at", "run_ended_at"}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEX = re.compile(r"\b[0-9a-f]{32}\b")
_MARK = re.compile(r"mark-\d+")
_EVENT = re.compile(r"\b\d{13}-\d+(\.\d+)?\b")
_TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
HEADERS = ("location", "content-location", "x-pagination-next")


class Normal:
    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def __call__(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {self.text(k): self(v, k) for k, v in value.items() if k not in SERVER_OWN}
        if isinstance(value, list):
            return [self(v) for v in value]
        if key in TIMES and value is not None:
            return "<time>"
        return self.text(value) if isinstance(value, str) else value

    def text(self, value: str) -> str:
        value = _EVENT.sub("<event>", _MARK.sub("<mark>", _TS.sub("<time>", value)))
        value = _UUID.sub(lambda m: self._name(m.group()), value)
        return _HEX.sub(lambda m: self._name(m.group()), value)

    def _name(self, id_: str) -> str:
        return self._ids.setdefault(id_, f"<id{len(self._ids)}>")


def own_of_sdk(exchange: dict[str, Any]) -> bool:
    path, call = exchange["request"]["path"], exchange["call"]
    return exchange["request"]["method"] == "GET" and re.search(r"/runs/[^/]+$", path) is not None and not call.startswith(("runs.get", "get", "unknown", "run ", "GET"))


def view(exchange: dict[str, Any], normal: Normal) -> dict[str, Any]:
    request, response = exchange["request"], exchange.get("response") or {"status": None, "headers": {}}
    shown: dict[str, Any] = {
        "request": f"{request['method']} {normal.text(request['path'])}",
        "status": response["status"],
        "headers": {name: normal.text(response["headers"][name]) for name in HEADERS if name in response["headers"]},
    }
    normal(request.get("body"))
    if response.get("sse"):
        frames = [f for f in response["sse"]["frames"] if f.get("event") != "end"]
        shown["events"] = [[normal.text(f.get("event") or ""), normal(f.get("data"))] for f in frames]
    elif (response["status"] or 0) >= 400:
        body = response.get("body")
        shown["error_keys"] = dict.fromkeys(body, True) if isinstance(body, dict) else type(body).__name__  # more are fine
    else:
        shown["body"] = normal(response.get("body"))
    return shown


def differences(golden: Any, other: Any, path: str, strict: bool) -> list[str]:
    if isinstance(golden, dict) and isinstance(other, dict):
        found = [f"{path}.{k}: missing" for k in golden.keys() - other.keys()]
        if strict:
            found += [f"{path}.{k}: not in golden" for k in other.keys() - golden.keys()]
        for k in golden.keys() & other.keys():
            found += differences(golden[k], other[k], f"{path}.{k}", strict)
        return found
    if isinstance(golden, list) and isinstance(other, list):
        if path.endswith(".events") and [e[0] for e in golden] != [e[0] for e in other]:
            return [f"{path}: {[e[0] for e in golden]} != {[e[0] for e in other]}"]
        if len(golden) != len(other):
            return [f"{path}: {len(golden)} items != {len(other)}"]
        return [d for i, (a, b) in enumerate(zip(golden, other)) for d in differences(a, b, f"{path}[{i}]", strict)]
    return [] if golden == other else [f"{path}: {str(golden)[:120]!r} != {str(other)[:120]!r}"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("golden", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--only", default="*")
    parser.add_argument("-v", action="store_true")
    options = parser.parse_args()
    listed = json.loads((HERE / "deviations.json").read_text()) if (HERE / "deviations.json").exists() else []
    totals: dict[str, Counter[str]] = {}
    for file in sorted(options.golden.glob("*.json")):
        if not fnmatch.fnmatch(file.stem, options.only):
            continue
        area = totals.setdefault(file.stem.split(".")[0], Counter())
        path = options.other / file.name
        if not path.exists():
            area["scenario missing"] += 1
            continue
        sides = []
        for one in (file, path):
            normal = Normal()
            sides.append([(e["call"], view(e, normal)) for e in json.loads(one.read_text())["exchanges"] if not own_of_sdk(e)])
        if len(sides[0]) != len(sides[1]):
            print(f"{file.stem}: {len(sides[0])} exchanges != {len(sides[1])}")
            area["exchanges missing"] += abs(len(sides[0]) - len(sides[1]))
        for (call, golden), (_, other) in zip(*sides):
            found = differences(golden, other, "", options.strict)
            why = next((w for s, c, w in listed if fnmatch.fnmatch(file.stem, s) and fnmatch.fnmatch(call, c)), None)
            area["same" if not found else "differs, listed" if why else "DIFFERS"] += 1
            if found and (options.v or not why):
                print(f"{file.stem} | {call} | {golden['request']}" + (f"  [listed: {why}]" if why else ""))
                for line in found[: 40 if options.v else 4]:
                    print("    ", line[:300])
    print()
    for area, counts in totals.items():
        print(f"{area:12} " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    bad = sum(n for counts in totals.values() for name, n in counts.items() if name not in ("same", "differs, listed"))
    print(f"\n{sum(c['same'] for c in totals.values())} same, {bad} differ")
    return 1 if bad else 0


sys.exit(main())
