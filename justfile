# List the tasks.
default:
    @just --list --unsorted

# Install what the tests need beside Rust: the wasm target, MariaDB, and mail clients that nobody here wrote.
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    rustup target add wasm32-unknown-unknown
    missing=()
    for tool in mariadbd:mariadb-server swaks:swaks msmtp:msmtp curl:curl python3:python3 openssl:openssl sslscan:sslscan setpriv:util-linux; do
        PATH="$PATH:/usr/sbin" command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    perl -MNet::SSLeay -e 1 2>/dev/null || missing+=(libnet-ssleay-perl)
    if [ "${#missing[@]}" -gt 0 ]; then
        sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi

# Run the server on 127.0.0.1:2525, with mail in mailcell.db.
run *ARGS:
    cargo run --release -- serve {{ARGS}}

# Run all tests.
test: setup
    cargo test --workspace --lib --bins --tests

# Test the protocol core alone, natively, in seconds.
test-core:
    cargo test --package mailcell-core --package mailcell-conformance

# Rewrite what the transcripts in tests/sessions expect from what the core says; look at the diff.
rewrite-transcripts:
    MAILCELL_REWRITE=1 cargo test --package mailcell-conformance --test native

# Check formatting and lints.
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy --package mailcell-core --features component --package mailcell-core-hostile --package mailcell-core-variant --target wasm32-unknown-unknown --target-dir target/component --locked -- -D warnings

# Check licences and sources of the dependencies (needs cargo-deny).
deny:
    cargo deny check bans licenses sources

# Build the protocol core, and check it against the specification.
core:
    cargo run --quiet -- core check target/mailcell-core.wasm

# Measure: all rows of the table, or those that are named (needs Debian's package tools and MariaDB; Postfix starts as root only).
bench *ROWS: setup
    cargo build --release --package mailcell --package mailcell-bench
    target/release/mailcell-bench {{ROWS}}

# Measure single events of the core, natively and as a component.
bench-micro *FILTER:
    cargo bench --package mailcell-bench --bench micro -- {{FILTER}}

# What continuous integration runs.
ci:
    .ci/run
