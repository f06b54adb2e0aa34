"""Record with the stock SDK what our gateway says, and compare it with what LangGraph's own server said."""

import asyncio
import os
import sys
from pathlib import Path

RECORDER = Path(__file__).parent / "recorder"


async def record(url: str, key: str, folder: Path, script: str, *areas: str) -> None:
    """Run a script of the recorder against `url` with an API key; it writes a file a scenario to `folder`."""
    await _run(script, *areas, LG_URL=url, LG_KEY=key, LG_OUT=str(folder))


async def differences(golden: Path, folder: Path, scenarios: str) -> str:
    """Compare scenarios; answers what differs without being listed in recorder/deviations.json, "" for nothing."""
    status, output = await _run("compare.py", str(golden), str(folder), "--only", scenarios)
    return output if status else ""


async def _run(script: str, *arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        RECORDER / script,
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()
