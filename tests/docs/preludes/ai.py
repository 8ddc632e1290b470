from openai import AsyncOpenAI

from mm_metering.testing.fake_llm import FakeLlm

fake = stack.enter_context(FakeLlm())
client = await stack.enter_async_context(AsyncOpenAI(api_key=fake.api_key, base_url=f"{fake.url}/v1"))
messages = [{"role": "user", "content": "Say it in one sentence."}]
await metering.put_tenant("org_123", plan="pro")
stack.enter_context(metering.bind("org_123"))


async def agent(_):
    await metering.ai.wrap(client).chat.completions.create(model="gpt-4", messages=messages)
