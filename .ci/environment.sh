# Sourced by the scripts beside it: a new environment, removed at the end, and the one test command of the README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE  # without stored bytecode, each process compiles all modules that it imports

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT

# new_environment PYTHON: creates the environment.
new_environment() {
    if ! "$1" --version > "$environment/version.txt" 2>&1; then
        echo "Python isn't available as \`$1\`. Set PYTHON to its path, as in PYTHON=/path/to/$1 bash $0." >&2
        exit 1
    fi
    "$1" -m venv "$environment"
}

# install ARGUMENTS: runs pip in the environment. Most modules are never imported, so none is compiled beforehand.
install() {
    "$environment/bin/python" -m pip install --quiet --no-compile "$@"
}

# find_data: makes the real data available to the tests if it lies beside the repository.
find_data() {
    if [ -z "${SPARSEDICT_TEST_DATA:-}" ] && [ -d ../shared/data ]; then
        SPARSEDICT_TEST_DATA=$(cd ../shared/data && pwd)
        export SPARSEDICT_TEST_DATA
    fi
}

has_browser() {
    command -v chromium-headless-shell chromium google-chrome > /dev/null
}

# start_browser: begins to install Chromium, in which the tests open pages, while pip installs the packages.
start_browser() {
    if ! has_browser && command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
        # The headless shell needs a third of the CPU time. Not all systems have the package.
        (
            export DEBIAN_FRONTEND=noninteractive
            apt-get update -qq
            apt-get install -y -qq chromium-headless-shell > /dev/null || apt-get install -y -qq chromium > /dev/null
        ) &
        browser=$!
    fi
}

# find_browser: waits for Chromium. Without it, the tests that open pages are skipped with a reason.
find_browser() {
    if [ -n "${browser:-}" ]; then
        wait "$browser" || true
    fi
    if has_browser; then
        export SPARSEDICT_BROWSER_TESTS=required
    else
        echo "Chromium couldn't be installed: the browser tests are skipped." >&2
    fi
}

# run_tests ARGUMENTS: runs the test command.
run_tests() {
    find_data
    find_browser
    "$environment/bin/python" -m tests "$@"
}
