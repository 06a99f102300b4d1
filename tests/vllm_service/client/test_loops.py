"""One client in a second event loop, in threads, after a fork: it works, or the error says what to do.

Each program runs in a process of its own, where an unclosed socket or loop (ResourceWarning) is an error.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.vllm_service.client.loop_programs import printed


@pytest.mark.parametrize("made", ["service()", "router()"])
async def test_a_second_loop_works_and_nothing_is_left_open(made: str, tmp_path: Path) -> None:
    program = f"""
    client = {made}
    async def use(text):
        left = client.stream("cut")
        said = [await client.generate(text), await read(client.stream(text)), await anext(left)]
        together = await asyncio.gather(*(client.generate(str(number)) for number in range(20)))
        assert together == [str(number) for number in range(20)]
        print(*said)
    for text in ("one", "two", "three"):
        asyncio.run(use(text))
    asyncio.run(client.close())
    asyncio.run(client.close())
    """
    lines, _ = await printed(program, tmp_path)
    assert lines == ["one one c", "two two c", "three three c"]


async def test_queue_and_batches_work_in_a_second_loop(tmp_path: Path) -> None:
    program = """
    client = service()
    async def use():
        jobs = await asyncio.gather(*(client.submit({"prompt": "x"}) for _ in range(250)))
        print(len(jobs), (await client.wait(jobs[0].id)).output, (await client.health()).workers["idle"])
        print(await client.batch_generate(["a", "b"]))
    asyncio.run(use())
    asyncio.run(use())
    """
    lines, _ = await printed(program, tmp_path)
    assert lines == ["250 done 1", "['a', 'b']"] * 2


async def test_the_windows_of_the_queue_hold_for_all_loops_together(tmp_path: Path) -> None:
    program = """
    import time
    from vllm_service import RateLimit
    client = service(queue_limits={"run": RateLimit(2, 2)}, queue_window_seconds=0.4)
    started = time.monotonic()
    for _ in range(4):
        asyncio.run(client.submit({"prompt": "x"}))
    print(time.monotonic() - started >= 0.4)
    """
    lines, server = await printed(program, tmp_path)
    assert lines == ["True"]
    assert len(server.requests) == 4


async def test_a_loop_reuses_its_connection_and_closes_it_at_its_end(tmp_path: Path) -> None:
    program = """
    client = service()
    async def use():
        for _ in range(3):
            await client.generate("x")
    asyncio.run(use())
    print("ended")
    """
    lines, server = await printed(program, tmp_path)
    assert (lines, server.connections) == (["ended"], 1)


async def test_threads_with_loops_of_their_own_share_a_service(tmp_path: Path) -> None:
    program = """
    client, said, together = service(), [], threading.Barrier(6)
    async def use(number):
        together.wait()
        for round in range(10):
            said.append(await client.generate(f"{number}-{round}"))
            said.append(await read(client.stream(f"{number}-{round}")))
    threads = [threading.Thread(target=lambda number=number: asyncio.run(use(number))) for number in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(sorted(said) == sorted(2 * [f"{number}-{round}" for number in range(6) for round in range(10)]))
    """
    lines, _ = await printed(program, tmp_path)
    assert lines == ["True"]


async def test_a_service_that_is_closed_in_one_thread_closes_in_the_others(tmp_path: Path) -> None:
    program = """
    client, used, closed = service(), threading.Event(), threading.Event()
    async def use():
        await client.generate("x")
        used.set()
        await asyncio.to_thread(closed.wait)
        await asyncio.sleep(0)
        try:
            await client.generate("x")
        except ServiceError as error:
            print(type(error).__name__, error)
    thread = threading.Thread(target=lambda: asyncio.run(use()))
    thread.start()
    used.wait()
    asyncio.run(client.close())
    closed.set()
    thread.join()
    """
    lines, _ = await printed(program, tmp_path)
    assert lines == ["InvalidRequest this RunPodVLLMService is closed: make a new one"]


async def test_a_router_is_used_by_one_running_loop_at_a_time_and_says_so(tmp_path: Path) -> None:
    program = """
    client = router()
    async def use():
        print(await client.generate("first"))
        other = lambda: refused(lambda: asyncio.run(client.generate("x")))
        await asyncio.to_thread(in_thread, other)
        loop = asyncio.get_running_loop()
        passed_on = lambda: asyncio.run_coroutine_threadsafe(client.generate("passed on"), loop).result()
        print(await asyncio.to_thread(passed_on))
    asyncio.run(use())
    in_thread(lambda: refused(lambda: asyncio.run(client.generate("later"))))
    """
    lines, _ = await printed(program, tmp_path)
    assert lines[0] == "first"
    assert lines[1].startswith("ConfigurationError this LLMRouter is in use by an event loop that runs in another")
    assert "asyncio.run_coroutine_threadsafe" in lines[1]
    assert lines[2:] == ["passed on", "worked: later"]


@pytest.mark.parametrize("made", ["service()", "router()"])
async def test_a_stream_that_was_begun_in_another_loop_says_where_to_read_it(made: str, tmp_path: Path) -> None:
    program = f"""
    client = {made}
    begun, read_there, fresh = client.stream("cut"), client.stream("whole"), client.stream("fresh")
    async def use():
        print(await anext(begun), await read(read_there))
    asyncio.run(use())
    refused(lambda: asyncio.run(read(begun)))
    asyncio.run(begun.aclose())
    print(read_there.answer.text, asyncio.run(read(fresh)))
    """
    lines, _ = await printed(program, tmp_path)
    assert lines[0] == "c whole"
    assert lines[1].startswith("ConfigurationError the stream was begun in another event loop, or before a fork: read")
    assert lines[2] == "whole fresh"


async def test_two_tasks_cannot_read_one_stream(tmp_path: Path) -> None:
    program = """
    async def use():
        async with service() as client:
            stream = client.stream("cut")
            for _ in "cut":
                await anext(stream)
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            for work in (stream.__anext__, stream.aclose):
                try:
                    await work()
                except ServiceError as error:
                    print(type(error).__name__, error)
            reading.cancel()
            await asyncio.wait([reading])
    asyncio.run(use())
    """
    lines, _ = await printed(program, tmp_path)
    assert lines == ["InvalidRequest the stream is being read already: one task at a time can read it"] * 2


async def test_an_http_client_of_the_callers_belongs_to_its_first_loop(tmp_path: Path) -> None:
    program = """
    client = service(http_client=httpx2.AsyncClient())
    refused(lambda: asyncio.run(client.generate("one")))
    refused(lambda: asyncio.run(client.generate("two")))
    """
    lines, _ = await printed(program, tmp_path)
    assert lines[0] == "worked: one"
    assert lines[1].startswith("ConfigurationError http_client: its connections belong to the event loop in which")
    assert lines[1].endswith("Make a client in each loop, or leave http_client out")


@pytest.mark.parametrize("made", ["service()", "router()"])
async def test_a_forked_process_works_and_does_not_disturb_its_parent(made: str, tmp_path: Path) -> None:
    program = f"""
    client = {made}
    async def use(text):
        print(await client.generate(text), await read(client.stream(text)))
    def child():
        asyncio.run(use("child"))
        asyncio.run(use("again"))
        asyncio.run(client.close())
    async def main():
        await use("parent")
        forked(child)
        await use("parent")
        begun = client.stream("cut")
        await anext(begun)
        forked(lambda: refused(lambda: asyncio.run(read(begun))))
        print(await anext(begun))
        await begun.aclose()
        await client.close()
    asyncio.run(main())
    """
    lines, _ = await printed(program, tmp_path)
    assert lines[:4] == ["parent parent", "child child", "again again", "parent parent"]
    assert lines[4].startswith("ConfigurationError the stream was begun in another event loop, or before a fork")
    assert lines[5:] == ["u"]


@pytest.mark.parametrize("made", ["service()", "router()"])
async def test_a_loop_that_was_copied_by_a_fork_says_to_start_a_new_one(made: str, tmp_path: Path) -> None:
    program = f"""
    client, loop = {made}, asyncio.new_event_loop()
    print(loop.run_until_complete(client.generate("parent")))
    forked(lambda: refused(lambda: loop.run_until_complete(client.generate("child"))))
    async def main():
        awaiting = client.generate("child")
        forked(lambda: refused(lambda: awaiting.send(None)))
        return await client.generate("parent")
    print(loop.run_until_complete(main()))
    loop.run_until_complete(client.close())
    loop.close()
    """
    lines, _ = await printed(program, tmp_path)
    assert (lines[0], lines[3]) == ("parent", "parent")
    assert "was used in this event loop by the process that this one was forked from. Start a new loop" in lines[1]
    assert "no event loop runs here. Use it within asyncio.run" in lines[2]


async def test_the_sync_service_works_in_threads_and_in_forked_processes(tmp_path: Path) -> None:
    program = """
    client = RunPodVLLMServiceSync(api_key="sk-secret", base_url=URL, default_model="m")
    print(client.generate("parent"))
    begun = client.stream("cut")
    print(next(begun))
    def child():
        print(client.generate("child"), "".join(client.stream("child")))
        refused(lambda: next(begun))
        client.close()
        refused(lambda: client.generate("x"))
    forked(child)
    print(next(begun), client.generate("parent"))
    begun.close()
    said = []
    threads = [threading.Thread(target=lambda: said.extend(client.stream("ab"))) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(said), asyncio.run(asyncio.to_thread(client.generate, "in a loop")))
    client.close()
    forked(lambda: refused(lambda: client.generate("x")))
    """
    lines, _ = await printed(program, tmp_path)
    assert lines[:3] == ["parent", "c", "child child"]
    assert lines[3].startswith("ConfigurationError the stream was begun in another event loop, or before a fork")
    assert lines[4] == "InvalidRequest the client is closed: make a new one"
    assert lines[5:] == ["u parent", "16 in a loop", "InvalidRequest the client is closed: make a new one"]


async def test_closing_the_sync_service_ends_calls_of_other_threads(tmp_path: Path) -> None:
    program = """
    client = RunPodVLLMServiceSync(api_key="sk-secret", base_url=URL, default_model="m")
    stream = client.stream("cut")
    for _ in "cut":
        next(stream)
    reading = threading.Thread(target=lambda: refused(lambda: next(stream)))
    reading.start()
    while not stream._source._deltas.ag_running:
        pass
    client.close()
    reading.join()
    """
    lines, server = await printed(program, tmp_path)
    assert len(lines) == 1
    assert not lines[0].startswith("worked")
    await asyncio.wait_for(server.was_left.wait(), 10)


async def test_every_call_of_a_closed_client_says_that_it_is_closed(tmp_path: Path) -> None:
    program = """
    async def use():
        for client in (service(), router()):
            await client.close()
            calls = [client.generate("x"), client.chat([{"role": "user", "content": "x"}]), anext(client.stream("x"))]
            if isinstance(client, RunPodVLLMService):
                calls += [client.submit({}), client.health(), client.generate_with_retry("x")]
            for call in calls:
                try:
                    await call
                except ServiceError as error:
                    print(type(error).__name__, error)
    asyncio.run(use())
    """
    lines, server = await printed(program, tmp_path)
    closed = "InvalidRequest this {} is closed: make a new one"
    assert lines == [closed.format("RunPodVLLMService")] * 6 + [closed.format("LLMRouter")] * 3
    assert server.requests == []
