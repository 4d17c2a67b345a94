"""The verbs that only look: inspect, report and list take names and perhaps an option."""

from bertjax.errors import ConfigError

USAGES = {
    "inspect": "CONFIG.py [--preset NAME]|RUN\n       bertjax inspect RUN|DATA --verify",
    "report": "RUN ... [--out FILE]",
    "list": "[models|objectives|tasks|presets]",
}
NEEDED = {"inspect": "CONFIG.py or RUN", "report": "RUN"}
OPTIONS = {"inspect": "--preset", "report": "--out"}
MOST = {"inspect": 1, "report": 99, "list": 1}  # names


def taken(option: str, rest: list[str]) -> tuple[str | None, list[str]]:
    """The value of an option of ours, None where it is not given, and the other arguments."""
    at = next((i for i, argument in enumerate(rest) if argument.partition("=")[0] == option), None)
    if at is None:
        return None, rest
    _, equals, value = rest[at].partition("=")
    value, end = (value, at + 1) if equals else (" ".join(rest[at + 1 : at + 2]), at + 2)
    return value, rest[:at] + rest[end:]


def look(verb: str, rest: list[str], about: str) -> None:
    """Does what one of the verbs is asked for; `about` is what the verb does."""
    if {"-h", "--help"} & set(rest):
        print(f"usage: bertjax {verb} {USAGES[verb]}\n\n{about}")
        return
    checks = verb == "inspect" and "--verify" in rest
    rest = [argument for argument in rest if not (checks and argument == "--verify")]
    option = OPTIONS.get(verb)
    given, rest = taken(option, rest) if option else (None, rest)
    wrong = next((argument for argument in rest if argument.startswith("-")), None)
    if not (rest or wrong or verb == "list"):
        raise ConfigError(f"missing: {NEEDED[verb]}; see `bertjax {verb} --help`")
    if wrong or len(rest) > MOST[verb]:
        raise ConfigError(f"{wrong or ' '.join(rest)} is not what it takes; see `bertjax {verb} --help`")
    if given == "":
        raise ConfigError(f"missing: what {option} is to be; see `bertjax {verb} --help`")
    from bertjax import report, use
    from bertjax.verify import verify

    for path in rest:
        use.check_path(verb, path)
    if checks:
        verify(rest[0])
    elif verb == "inspect":
        report.inspect(rest[0], given)
    elif verb == "report":
        report.report(rest, given or "")
    else:
        report.list_names(rest[0] if rest else "")
