"""The server that the conformance suite judges: ours, from the app factory, with the fixtures that its scenarios call.

    .venv/bin/python -P tests/judges/fixture_server.py PORT

The suite asks for tools, resources and prompts of its own names (`conformance list`, and each scenario's description).
They are added to a whole looptune server, so that its middleware, its extensions, its subscriptions and its way with
tools are what is judged. Never part of what is installed.
"""

import asyncio
import base64
import json
import sys
import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from mcp.server import ServerRequestContext
from mcp.server.mcpserver import Context, require_client_extension
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.types import (
    AudioContent,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    SamplingMessage,
    SetLevelRequestParams,
    TextContent,
    TextResourceContents,
)
from mcp_types import INTERNAL_ERROR, MISSING_REQUIRED_CLIENT_CAPABILITY
from pydantic import BaseModel, Field

from server.app import build_server
from server.protocol import Server
from server.tasks import TASKS, created
from tools.errors import InputError
from tools.settings import Settings

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
NAME_FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def elicit(message: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sample(text: str, most: int) -> dict[str, Any]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": most}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}


def needs(requests: dict[str, Any], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult.model_validate(
        {"resultType": "input_required", "inputRequests": requests, **({"requestState": state} if state else {})}
    )


def given(ctx: Context[Any], key: str) -> Any:
    """The client's answer under `key`, as data, or None."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.model_dump(mode="json", by_alias=True) if isinstance(answer, BaseModel) else answer


class Job:
    """A task of this process."""

    def __init__(self, tool: str, arguments: dict[str, Any]) -> None:
        self.id = f"task-{uuid.uuid4().hex[:12]}"
        self.tool, self.arguments = tool, arguments
        self.began = self.changed = datetime.now(UTC).isoformat()
        self.status = "working"
        self.result: CallToolResult | None = None
        self.error: dict[str, Any] | None = None
        self.asks: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.answered = asyncio.Event()
        self.work: asyncio.Task[None] | None = None

    def shown(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "taskId": self.id, "status": self.status, "createdAt": self.began, "lastUpdatedAt": self.changed,
            "ttlMs": 600_000, "pollIntervalMs": 100,
        }  # fmt: skip
        if self.asks and self.status == "input_required":
            state["inputRequests"] = self.asks
        if self.result is not None:
            state["result"] = self.result.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.error is not None:
            state["error"] = self.error
        return state


class Fixtures:
    """The tasks that the scenarios of the extension call for."""

    tools = ("slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input")

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    async def call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: Any, declared: bool
    ) -> Any:
        name, arguments = params.name, dict(params.arguments or {})
        if name == "test_tool_with_task":
            answer = (params.input_responses or {}).get("user_name")
            if answer is None:
                return await call_next(ctx)  # the tool asks
            data = answer.model_dump(mode="json", by_alias=True) if isinstance(answer, BaseModel) else answer
            arguments["user_name"] = (data.get("content") or {}).get("name", "")
            require_client_extension(ctx, TASKS)
        elif name == "failing_job":
            require_client_extension(ctx, TASKS)
        elif name not in self.tools or not declared:
            return await call_next(ctx)
        job = Job(name, arguments)
        self.jobs[job.id] = job
        job.work = asyncio.create_task(self._run(job))
        return created(job.shown())

    async def _run(self, job: Job) -> None:
        try:
            job.result = await self._work(job)
            job.status = "completed"
        except asyncio.CancelledError:
            job.status = "cancelled"
        except Exception as error:
            job.error, job.status = {"code": INTERNAL_ERROR, "message": str(error)}, "failed"
        job.changed = datetime.now(UTC).isoformat()

    async def _work(self, job: Job) -> CallToolResult:
        if job.tool == "failing_job":
            await asyncio.sleep(1)
            return CallToolResult(content=[TextContent(type="text", text="It failed, as it should.")], is_error=True)
        if job.tool == "protocol_error_job":
            raise RuntimeError("a failure of the protocol")
        if job.tool in ("confirm_delete", "multi_input"):
            keys = ["confirm"] if job.tool == "confirm_delete" else ["first", "second"]
            boolean = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
            job.asks = {key: elicit(f"{key}?", boolean) for key in keys}
            job.status = "input_required"
            while job.asks:
                await job.answered.wait()
                job.answered.clear()
            job.status = "working"
            return CallToolResult(content=[TextContent(type="text", text=f"Answers: {json.dumps(job.answers)}")])
        if job.tool == "test_tool_with_task":
            text = f"Hello, {job.arguments['user_name']}!"
            return CallToolResult(content=[TextContent(type="text", text=text)])
        await asyncio.sleep(float(job.arguments.get("seconds", 0)))
        return CallToolResult(content=[TextContent(type="text", text="computed")])

    async def state(self, task_id: str) -> dict[str, Any] | None:
        return self.jobs[task_id].shown() if task_id in self.jobs else None

    async def cancel(self, task_id: str) -> None:
        job = self.jobs[task_id]
        if job.work and not job.work.done():
            job.work.cancel()
            await asyncio.wait([job.work])

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        job = self.jobs[task_id]
        for key, answer in responses.items():
            if key in job.asks:
                job.asks.pop(key)
                job.answers[key] = answer
        job.answered.set()


def plain_tools(server: Server) -> None:
    """What the scenarios of tools/call ask for."""

    def tool(function: Any) -> Any:
        return server.tool(description=f"Fixture {function.__name__}", structured_output=False)(function)

    text = TextContent(type="text", text="This is a simple text response for testing.")

    @tool
    def test_simple_text() -> TextContent:
        return text

    @tool
    def test_image_content() -> ImageContent:
        return ImageContent(type="image", data=PNG, mime_type="image/png")

    @tool
    def test_audio_content() -> AudioContent:
        return AudioContent(type="audio", data=WAV, mime_type="audio/wav")

    def embedded(uri: str, mime: str, content: str) -> EmbeddedResource:
        held = TextResourceContents(uri=uri, mime_type=mime, text=content)
        return EmbeddedResource(type="resource", resource=held)

    @tool
    def test_embedded_resource() -> EmbeddedResource:
        return embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")

    @tool
    def test_multiple_content_types() -> list[Any]:
        return [
            TextContent(type="text", text="Multiple content types test:"),
            test_image_content(),
            embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ]

    @tool
    def test_error_handling() -> str:
        from mcp.server.mcpserver.exceptions import ToolError

        raise ToolError("This tool intentionally returns an error for testing")

    @tool
    async def test_tool_with_logging(ctx: Context[Any]) -> str:
        for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(said)
            await asyncio.sleep(0.05)
        return "logged"

    @tool
    async def test_tool_with_progress(ctx: Context[Any]) -> str:
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await asyncio.sleep(0.05)
        return "done"

    @tool
    async def test_sampling(prompt: str, ctx: Context[Any]) -> str:
        message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        result = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
        return f"LLM response: {getattr(result.content, 'text', '')}"

    async def asked(ctx: Context[Any], message: str, schema: dict[str, Any], said: str) -> str:
        result = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
        return f"{said}action={result.action}, content={json.dumps(result.content)}"

    @tool
    async def test_elicitation(message: str, ctx: Context[Any]) -> str:
        fields = {"username": "User's response", "email": "User's email address"}
        properties = {name: {"type": "string", "description": description} for name, description in fields.items()}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return await asked(ctx, message, schema, "User response: ")

    @tool
    async def test_elicitation_sep1034_defaults(ctx: Context[Any]) -> str:
        properties = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        schema = {"type": "object", "properties": properties}
        return await asked(ctx, "Defaults", schema, "Elicitation completed: ")

    @tool
    async def test_elicitation_sep1330_enums(ctx: Context[Any]) -> str:
        plain = ["option1", "option2", "option3"]

        def titled(word: str) -> list[dict[str, str]]:
            places = ("First", "Second", "Third")
            return [{"const": f"value{n}", "title": f"{place} {word}"} for n, place in enumerate(places, 1)]

        properties = {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled("Option")},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
        }
        schema = {"type": "object", "properties": properties}
        return await asked(ctx, "Enums", schema, "Elicitation completed: ")

    @tool
    def test_missing_capability(ctx: Context[Any]) -> str:
        capabilities = ctx.client_capabilities
        if capabilities is None or capabilities.sampling is None:
            data = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling.", data)
        return "sampling is there"

    @tool
    def greet(name: str) -> str:
        return f"Hello, {name}!"

    @tool
    async def slow_compute(seconds: float = 0) -> str:
        await asyncio.sleep(min(seconds, 1))
        return "computed"

    for name in Fixtures.tools[1:]:
        server.tool(name=name, description=f"Fixture {name}", structured_output=False)(lambda: "done at once")

    async def custom(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return region

    server.tool(name="test_custom_header", description="Fixture test_custom_header", structured_output=False)(custom)


def asking_tools(server: Server) -> None:
    """What the scenarios of input_required ask for."""

    def tool(name: str) -> Any:
        return server.tool(name=name, description=f"Fixture {name}", structured_output=False)

    def whole(text: str) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=text)])

    boolean = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    step = "test_input_required_result_"

    def form(answer: Any) -> dict[str, Any] | None:
        content = answer.get("content") if isinstance(answer, dict) else None
        return content if isinstance(content, dict) and answer.get("action") == "accept" else None

    @tool(step + "elicitation")
    async def elicitation(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        content = form(given(ctx, "user_name"))
        if content is None or "name" not in content:
            return needs({"user_name": elicit("What is your name?", NAME_FORM)})
        return whole(f"Hello, {content['name']}!")

    @tool(step + "sampling")
    async def sampling(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        answer = given(ctx, "capital_question")
        if answer is None:
            return needs({"capital_question": sample("What is the capital of France?", 100)})
        return whole(f"The model said: {json.dumps(answer['content'])}")

    @tool(step + "list_roots")
    async def list_roots(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        answer = given(ctx, "client_roots")
        return needs({"client_roots": ROOTS}) if answer is None else whole(f"Roots: {json.dumps(answer['roots'])}")

    @tool(step + "request_state")
    async def request_state(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        if given(ctx, "confirm") is None or ctx.request_state != "confirmed?":
            return needs({"confirm": elicit("Please confirm", boolean)}, "confirmed?")
        return whole("state-ok")

    @tool(step + "tampered_state")
    async def tampered_state(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        if ctx.request_state is None:
            return needs({"confirm": elicit("Please confirm", boolean)}, "sealed")
        return whole("state-ok")

    @tool(step + "multiple_inputs")
    async def multiple_inputs(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        keys = ("user_name", "greeting", "client_roots")
        if any(given(ctx, key) is None for key in keys):
            asks = (elicit("What is your name?", NAME_FORM), sample("Generate a greeting", 50), ROOTS)
            return needs(dict(zip(keys, asks, strict=True)), "all three")
        return whole("All three came.")

    @tool(step + "multi_round")
    async def multi_round(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        color = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
        if ctx.request_state == "round 2" and (content := form(given(ctx, "step2"))):
            return whole(f"You like {content.get('color')}.")
        if ctx.request_state == "round 1" and form(given(ctx, "step1")):
            return needs({"step2": elicit("Step 2: What is your favorite color?", color)}, "round 2")
        return needs({"step1": elicit("Step 1: What is your name?", NAME_FORM)}, "round 1")

    @tool(step + "capabilities")
    async def capabilities(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        can = ctx.client_capabilities
        asks = {}
        if can and can.sampling is not None:
            asks["question"] = sample("Say something", 50)
        if can and can.elicitation is not None:
            asks["user_name"] = elicit("What is your name?", NAME_FORM)
        return needs(asks) if asks and not ctx.input_responses else whole("done")

    @tool("test_tool_with_task")
    async def with_task(ctx: Context[Any]) -> CallToolResult | InputRequiredResult:
        return needs({"user_name": elicit("What is your name?", NAME_FORM)}, "before the task")

    @server.prompt(name=step + "prompt", description="One that asks")
    async def prompt(ctx: Context[Any]) -> Any:
        content = form(given(ctx, "user_context"))
        if content is None:
            schema = {"type": "object", "properties": {"context": {"type": "string"}}, "required": ["context"]}
            return needs({"user_context": elicit("What context should the prompt use?", schema)})
        return f"Use this context: {content.get('context')}"


def resources_and_prompts(server: Server) -> None:
    """What the scenarios of resources and prompts ask for."""

    @server.resource("test://static-text", mime_type="text/plain", description="A text")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png", description="A picture")
    def static_binary() -> bytes:
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json", description="By its id")
    def template(id: str) -> str:
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain", description="One to subscribe to")
    def watched() -> str:
        return "watched"

    @server.prompt(description="Without arguments")
    def test_simple_prompt() -> str:
        return "This is a simple prompt for testing."

    @server.prompt(description="With two arguments")
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt(description="With a resource in it")
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        held = TextResourceContents(
            uri=resourceUri, mime_type="text/plain", text="Embedded resource content for testing."
        )
        return [
            UserMessage(EmbeddedResource(type="resource", resource=held)),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt(description="With a picture in it")
    def test_prompt_with_image() -> list[UserMessage]:
        picture = ImageContent(type="image", data=PNG, mime_type="image/png")
        return [UserMessage(picture), UserMessage("Please analyze the image above.")]

    async def set_level(ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)


def main() -> None:
    """Serve on the loopback port that is named."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        raise InputError("Expected a port.", "fixture_server.py 8123")
    port = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as home:
        server = build_server(Settings(home=Path(home)), task_sources=[Fixtures()])
        plain_tools(server)
        asking_tools(server)
        resources_and_prompts(server)
        names = [f"127.0.0.1:{port}", f"localhost:{port}"]
        security = TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=names,
            allowed_origins=[f"http://{name}" for name in names],
        )
        app = server.streamable_http_app(transport_security=security)
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
