"""AsyncOpenAI alone, with your endpoint or the gateway: nothing of this project is imported.

OPENAI_BASE_URL=https://api.runpod.ai/v2/ENDPOINT_ID/openai/v1 OPENAI_API_KEY=... MODEL=... python asyncopenai.py
"""

from __future__ import annotations

import asyncio
import os

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


async def main() -> None:
    """Prints a whole answer, then the same as a stream."""
    model = os.environ["MODEL"]
    # A cold endpoint may need minutes. A retry would queue a second job, so the time-out is long and there are none.
    async with AsyncOpenAI(timeout=600, max_retries=0) as client:
        whole = await client.chat.completions.create(model=model, messages=MESSAGES, temperature=0)
        print(whole.choices[0].message.content)
        stream = await client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, stream=True)
        async for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main())
