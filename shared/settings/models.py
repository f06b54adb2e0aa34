"""Settings of model calls: the provider, its retries, and the models of the built-in assistant."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.settings.environment import Settings


class ModelSettings(Settings):
    """The model provider; names and meaning are OpenAI's own."""

    openai_api_key: SecretStr | None = Field(
        None, validation_alias="OPENAI_API_KEY", description="key of the model API"
    )
    openai_base_url: str | None = Field(
        None, validation_alias="OPENAI_BASE_URL", description="another OpenAI-compatible API"
    )


class CallSettings(Settings):
    """A guarded model call: how often and how long it is tried."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_CALL_")

    attempts: int = Field(3, ge=1, le=20, description="tries per model, the first included")
    timeout_s: float = Field(60.0, gt=0, description="give up on one try after this time")
    longest_wait_s: float = Field(2.0, ge=0, description="a call that would wait longer goes to the next model")


class AssistantSettings(Settings):
    """The built-in assistant."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_ASSISTANT_")

    classifier_model: str = Field("gpt-4o-mini", description="says how complex a question is")
    simple_model: str = Field("gpt-4o-mini", description="answers simple questions")
    medium_model: str = Field("gpt-4o", description="answers medium questions")
    complex_model: str = Field("gpt-4o", description="answers complex questions")
    fallback_model: str = Field("gpt-4o-mini", description="answers, with a simpler prompt, when the first one failed")
    max_output_tokens: int = Field(1_000, ge=1, description="longest answer")
