"""Node and the npm packages of `js/`, for tests of LangGraph's clients for JavaScript."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

JS = Path(__file__).parent / "js"
NODE = shutil.which("node")

needs_packages = pytest.mark.skipif(
    not (NODE and (JS / "node_modules").is_dir()), reason="needs node, and `npm ci` in tests/langgraph_api/js"
)


async def run(program: str, *arguments: str | Path, **environment: str) -> str:
    """Run `node`, or a program of the packages, in `js/`; returns what it printed, and fails if it failed."""
    path = NODE if program == "node" else JS / "node_modules/.bin" / program
    process = await asyncio.create_subprocess_exec(
        path,
        *arguments,
        cwd=JS,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def bundle(page: str | Path, file: Path) -> None:
    """Write a page's program and the packages that it imports as one file for browsers."""
    production = "--define:process.env.NODE_ENV='production'"
    await run("esbuild", page, "--bundle", "--jsx=automatic", production, f"--outfile={file}")
