"""Settings, read from the environment (prefix IPT_) by the assembly only."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """How this process runs. Every name is an environment variable with the prefix IPT_."""

    model_config = SettingsConfigDict(env_prefix="IPT_", frozen=True, extra="ignore")

    home: Path = Field(Path("var"), description="Folder of the embedded database, the keys and sandbox.json")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    processes: int = Field(1, ge=1, le=64, description="API processes that share the rate limits")
    public_url: str | None = Field(None, description="The issuer and audience of tokens; the address partners use")

    database_url: str | None = Field(None, description="postgresql://ipt_service@host/db; unset: embedded PostgreSQL")
    audit_database_url: str | None = Field(None, description="The insert-only audit login; default: database_url")
    worker_database_url: str | None = Field(None, description="The worker's login (ipt_worker); default: database_url")
    migration_database_url: str | None = Field(None, description="The migrator's login; default: database_url")
    pooler: Literal["none", "transaction"] = Field("none", description="transaction: behind PgBouncer in transaction mode")
    pool_size: int = Field(8, ge=1, le=64)

    postgres: Literal["auto", "system", "wheel"] = Field("auto", description="Which binaries the embedded server uses")
    embedded_account: str | None = Field(None, description="Account that runs embedded PostgreSQL when started by root")
    embedded_durable: bool = Field(True, description="False only in tests: the embedded server may lose writes")

    webhook_allowed_hosts: str = Field(
        "", description="host:port, with commas between: receivers that may be called though they are not public, also without TLS"
    )

    keys_file: Path | None = Field(None, description="Key-encryption keys; default: keys.json in the home folder")
    keys: SecretStr | None = Field(None, description="The keys themselves, as the JSON of the key file, instead of a file")
    keys_command: str | None = Field(None, description="A command that prints them, for a key management service")
    release_journal: Path | None = Field(
        None,
        description="File of what anonymised tables have shown, beside those of erasures and restores; default: releases.jsonl in the home folder",
    )
    trusted_proxies: str = Field("", description="Addresses of proxies, with commas between, whose X-Forwarded-For names the client; default: none")
    traces: str | None = Field(None, description="OTLP address of a collector (http://host:4318) that traces are sent to; default: none")
    docs: bool = Field(True, description="Whether /docs and /openapi.json are served")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    requests_per_second: int = Field(200, ge=1, description="Per client, over all processes")
    sync_requests_per_second: int = Field(20, ge=1, description="Per device for /v1/sync, over all processes")
    refusals_per_minute: int = Field(300, ge=1, description="Refused credentials per address, over all processes; more are a 429")
    tokens_per_minute: int = Field(120, ge=1, description="Per client at the token endpoint, over all processes")

    @property
    def issuer(self) -> str:
        """Return the issuer identifier: the public address, or the local one."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def keys_path(self) -> Path:
        """Return where the key-encryption keys stand."""
        return self.keys_file or self.home / "keys.json"

    @property
    def journal_path(self) -> Path:
        """Return where the journal of releases stands. Keep it apart from backups of the database."""
        return self.release_journal or self.home / "releases.jsonl"

    @property
    def erasures_path(self) -> Path:
        """Return where the journal of erasures stands: beside that of releases."""
        return self.journal_path.with_name("erasures.jsonl")

    @property
    def restores_path(self) -> Path:
        """Return where the journal of restores stands: beside that of releases."""
        return self.journal_path.with_name("restores.jsonl")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Return the hosts that webhooks may call though they are not public."""
        return tuple(h.strip() for h in self.webhook_allowed_hosts.split(",") if h.strip())
