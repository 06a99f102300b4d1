"""`deploy apply`: makes what is specified, waits for a worker, asks one question, and shows what it took."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console

from vllm_service.catalog.yaml_edit import write_provider
from vllm_service.cli.argument_types import positive
from vllm_service.cli.deploy_apply_report import Applied, failure_json, holdings_lines, lines, to_json
from vllm_service.cli.deploy_options import add_spec_arguments, spec_of
from vllm_service.cli.deploy_progress import Progress
from vllm_service.cli.deploy_session import Session, open_session, run_concealed, write_lines
from vllm_service.cli.exit_codes import FAILED, INTERRUPTED, NOT_READY
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.deployment.desired import container_environment, secret_values
from vllm_service.deployment.endpoint_calls import EndpointCalls
from vllm_service.deployment.existing import Existing, Names, find_existing, id_of
from vllm_service.deployment.first_answer import QUESTION, FirstAnswer, FirstRequest, NotReady
from vllm_service.deployment.holdings import Holdings, read_holdings
from vllm_service.deployment.hub import Hub
from vllm_service.deployment.planning import pools_of
from vllm_service.deployment.prices import read_prices
from vllm_service.deployment.provider_entry import provider_entry
from vllm_service.deployment.reconcile import Reconciliation
from vllm_service.deployment.settings import DeploySettings
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.deployment.steps import Step, Target
from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.runpod.command_http import CommandHttp
from vllm_service.runpod.rest_api import RestApi
from vllm_service.settings import CatalogSettings

SUMMARY = "make or change what is specified, wait for a worker, ask one question"
DESCRIPTION = (
    "Makes network volume, template and endpoint where they are missing, changes what is otherwise, wakes a worker, "
    "sends one chat request, and prints the answer, what the start took and the entry for providers.yaml. Running it "
    "again goes on where it ended and makes nothing twice. It also raises the workers of an endpoint that RunPod "
    "scaled down."
)
#: The longest cold start that is waited for without --wait: a large image and model at their first start.
WAIT_SECONDS = 1200.0
#: How long a failed run looks at what exists.
_LAST_LOOK_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    add_spec_arguments(parser)
    add_json(parser)
    parser.add_argument("--write", action="store_true", help="put the entry into providers.yaml (CONFIG_DIR)")
    parser.add_argument("--provider", metavar="NAME", help="the entry's name (default: the deployment's)")
    parser.add_argument(
        "--wait", type=positive, default=WAIT_SECONDS, metavar="SECONDS", help="for the answer (default: %(default)g)"
    )
    parser.add_argument("--no-wait", action="store_true", help="wake no worker and ask nothing")
    parser.add_argument("--question", default=QUESTION, metavar="TEXT", help="what to ask (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="show no lines of the workers' logs")


def run(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None, progress: Console | None = None
) -> int:
    """Returns the exit code: 0; 1 failed; 5 no answer in time; 130 interrupted. Raises ServiceError.

    environment: this process's by default.
    """
    settings = DeploySettings.from_environment(environment)
    spec = spec_of(options)
    secrets = secret_values(spec.secrets, settings.environment)
    session = open_session(settings, spec, progress)
    apply = _Apply(options, spec, secrets, session)
    return run_concealed(session, apply.run)


class _Apply:
    """One run."""

    def __init__(
        self, options: argparse.Namespace, spec: DeploymentSpec, secrets: Mapping[str, str], session: Session
    ) -> None:
        self._options = options
        self._spec = spec
        self._environment = container_environment(spec, secrets)
        self._session = session
        self._done: list[Step] = []

    async def run(self) -> int:
        """Returns the exit code. A failure is shown with what exists then, and what it costs."""
        volume = self._spec.volume
        names = Names(self._spec.name, volume.name if volume else None, self._spec.data_center)
        async with self._session.connected() as (api, send):
            try:
                return await self._apply(api, send)
            except ServiceError as error:
                return await self._failed(
                    api, names, error.message, NOT_READY if isinstance(error, NotReady) else FAILED
                )
            except asyncio.CancelledError:  # Ctrl-C, which asyncio turns into a cancellation of this task
                return await self._failed(api, names, "interrupted", INTERRUPTED)

    async def _apply(self, api: RestApi, send: CommandHttp) -> int:
        pools = await pools_of(self._spec, api, Hub.of(self._session.settings.environment))
        target = Target(self._spec, pools, self._environment)
        with Progress(self._session, shows_log=not self._options.quiet) as progress:

            def stepped(step: Step, is_done: bool) -> None:
                progress.stepped(step, is_done)
                self._done.extend([step] if is_done else [])

            existing = await Reconciliation(api, target, on_step=stepped).run()
            self._session.learn(existing)
            assert existing.endpoint is not None
            calls = EndpointCalls(_urls(existing), self._session.settings.api_key, send)
            first = None if self._options.no_wait else await self._first(api, existing, calls, progress)
        applied = await self._applied(api, target, existing, calls, first)
        self._report(applied)
        return 0 if not self._options.write or self._is_written(applied) else FAILED

    async def _first(self, api: RestApi, existing: Existing, calls: EndpointCalls, progress: Progress) -> FirstAnswer:
        assert existing.endpoint is not None
        request = FirstRequest(api, id_of(existing.endpoint), calls, progress, longest_seconds=self._options.wait)
        return await request.run(self._options.question)

    async def _applied(
        self, api: RestApi, target: Target, existing: Existing, calls: EndpointCalls, first: FirstAnswer | None
    ) -> Applied:
        assert existing.endpoint is not None
        prices = await read_prices(api)
        start = first.start if first is not None else None
        entry = provider_entry(
            target,
            id_of(existing.endpoint),
            calls.job_url,
            prices,
            today=datetime.now(UTC).date(),
            cold_start_seconds=None if start is None else start.seconds,
        )
        return Applied(
            name=self._spec.name,
            endpoint_id=id_of(existing.endpoint),
            openai_url=calls.openai_url,
            steps=tuple(self._done),
            first=first,
            holdings=await read_holdings(api, existing, prices),
            prices=prices,
            provider_name=self._options.provider or self._spec.name,
            entry=entry,
        )

    def _is_written(self, applied: Applied) -> bool:
        """Writes the entry; where that fails the deployment stands all the same, and its result has been shown."""
        path = CatalogSettings.from_environment(self._session.settings.environment).providers_path
        try:
            is_new = write_provider(path, applied.provider_name, applied.entry)
        except (ConfigurationError, OSError) as error:
            reason = error.message if isinstance(error, ConfigurationError) else f"{path}: {error.strerror or error}"
            self._session.say(f"the deployment stands, but its entry was not written: {reason}")
            return False
        self._session.say(f"{path}: {'written' if is_new else 'has this entry already'}")
        return True

    def _report(self, applied: Applied) -> None:
        if self._options.json:
            write_json(self._session.concealer.document(to_json(applied)))
        else:
            write_lines(self._session, lines(applied))

    async def _failed(self, api: RestApi, names: Names, message: str, code: int) -> int:
        """Says what went wrong, what exists now and what it costs; returns the code."""
        message = self._session.concealer.text(message)
        self._session.say(f"not done: {message}")
        holdings = await self._holdings(api, names)
        for line in holdings_lines(holdings):
            self._session.say(line)
        self._session.say("Run `deploy apply` again to go on, or `deploy destroy` to delete it.")
        if self._options.json:
            write_json(self._session.concealer.document(failure_json(names.deployment, message, self._done, holdings)))
        return code

    async def _holdings(self, api: RestApi, names: Names) -> Holdings | None:
        try:
            async with asyncio.timeout(_LAST_LOOK_SECONDS):
                existing = await find_existing(api, names)
                self._session.learn(existing)
                return await read_holdings(api, existing, await read_prices(api))
        except (ServiceError, TimeoutError):
            return None


def _urls(existing: Existing) -> Mapping[str, object]:
    urls = existing.endpoint.get("requestUrls") if existing.endpoint else None
    return urls if isinstance(urls, Mapping) else {}
