"""LangChain with the gateway or your endpoint: `pip install langchain-openai`.

OPENAI_BASE_URL=http://localhost:8090/v1 OPENAI_API_KEY=... MODEL=... python langchain_gateway.py
"""

from __future__ import annotations

import os

from langchain_openai import ChatOpenAI

QUESTION = "What is the capital of France?"


def main() -> None:
    """Prints a whole answer, then the same as a stream."""
    model = ChatOpenAI(model=os.environ["MODEL"], temperature=0, timeout=600, max_retries=0)
    print(model.invoke(QUESTION).content)
    for chunk in model.stream(QUESTION):
        print(chunk.content, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
