"""The verbs that only look: inspect, report and list take names and perhaps an option."""

from bertjax.errors import ConfigError

USAGES = {
    "inspect": "CONFIG.py|RUN\n       bertjax inspect RUN|DATA --verify",
    "report": "RUN ... [--out FILE]",
    "list": "[models|objectives|tasks|presets]",
}
MOST = {"inspect": 1, "report": 99, "list": 1}  # names


def look(verb: str, rest: list[str], about: str) -> None:
    """Does what one of the verbs is asked for; `about` is what the verb does."""
    if {"-h", "--help"} & set(rest):
        print(f"usage: bertjax {verb} {USAGES[verb]}\n\n{about}")
        return
    out, checks = "", verb == "inspect" and "--verify" in rest
    if checks:
        rest = [argument for argument in rest if argument != "--verify"]
    if verb == "report" and "--out" in rest[:-1]:
        at = rest.index("--out")
        out, rest = rest[at + 1], rest[:at] + rest[at + 2 :]
    wrong = next((argument for argument in rest if argument.startswith("-")), None)
    if wrong or len(rest) > MOST[verb] or (verb != "list" and not rest):
        raise ConfigError(f"{wrong or ' '.join(rest) or 'nothing'} is not what it takes; see `bertjax {verb} --help`")
    from bertjax import report, use
    from bertjax.verify import verify

    for path in rest:
        use.check_path(verb, path)
    if checks:
        verify(rest[0])
    elif verb == "inspect":
        report.inspect(rest[0])
    elif verb == "report":
        report.report(rest, out)
    else:
        report.list_names(rest[0] if rest else "")
