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

_REQUIRE = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);'
"""What packages in CommonJS need within a module."""


async def run(program: Path, folder: Path, **environment: str) -> str:
    """Run a module as one file, in `folder`; returns what it printed, and fails if it failed.

    Node 18 does not read the SDK's modules as they are: some have no type in their package.json.
    """
    bundled = folder / "program.mjs"
    await _bundle(program, bundled, "--platform=node", "--format=esm", f"--banner:js={_REQUIRE}")
    return await _run(NODE or "node", bundled, **environment)


async def bundle_page(page: Path, bundled: Path) -> None:
    """Write a page's program and the packages that it imports as one file for browsers."""
    await _bundle(page, bundled, "--jsx=automatic", "--define:process.env.NODE_ENV='production'")


async def _bundle(source: Path, bundled: Path, *options: str) -> None:
    modules = JS / "node_modules"
    esbuild = modules / ".bin/esbuild"
    await _run(esbuild, source, "--bundle", f"--outfile={bundled}", *options, NODE_PATH=str(modules))


async def _run(program: Path | str, *arguments: Path | str, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
