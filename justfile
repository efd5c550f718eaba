# List the tasks.
default:
    @just --list --unsorted

# Install what the tests need beside Rust: the wasm target, MariaDB, mail clients that nobody here wrote, and an unpacked Postfix.
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    rustup target add wasm32-unknown-unknown
    missing=()
    for tool in mariadbd:mariadb-server swaks:swaks msmtp:msmtp curl:curl python3:python3 openssl:openssl sslscan:sslscan setpriv:util-linux; do
        PATH="$PATH:/usr/sbin" command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    perl -MNet::SSLeay -e 1 2>/dev/null || missing+=(libnet-ssleay-perl)
    sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
    # Postfix is unpacked, and only its libraries are installed: all of it would be the machine's mail system.
    target="${CARGO_TARGET_DIR:-target}"
    if [ ! -d "$target/postfix-unpacked" ]; then
        mkdir -p "$target"
        place="$(mktemp -d -p "$target")"
        trap 'rm -rf "$place"' EXIT
        fetch() { (cd "$place" && apt-get -o APT::Sandbox::User=root download -qq postfix); }
        fetch || { $sudo apt-get update -qq && fetch; }
        for library in $(dpkg-deb --field "$place"/postfix_*.deb Depends | tr ',' '\n' | sed -n 's/^ *\(lib[^ ]*\).*/\1/p'); do
            dpkg-query --status "$library" >/dev/null 2>&1 || missing+=("$library")
        done
        dpkg-deb --extract "$place"/postfix_*.deb "$place/unpacked"
    fi
    if [ "${#missing[@]}" -gt 0 ]; then
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    # When its libraries are there as well.
    [ -d "$target/postfix-unpacked" ] || mv "$place/unpacked" "$target/postfix-unpacked"

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
    cargo clippy --package mailcell-core --features component --package mailcell-core-hostile --package mailcell-core-rfc821 --package mailcell-core-variant --target wasm32-unknown-unknown --target-dir target/component --locked -- -D warnings

# Check licences and sources of the dependencies (needs cargo-deny).
deny:
    cargo deny check bans licenses sources

# Build the protocol core, and check it against the specification.
core:
    cargo run --quiet -- core check target/mailcell-core.wasm

# Measure: all rows of the table, or those that are named (Postfix starts as root only).
bench *ROWS: setup
    cargo build --release --package mailcell --package mailcell-bench
    target/release/mailcell-bench {{ROWS}}

# Measure single events of the core, natively and as a component.
bench-micro *FILTER:
    cargo bench --package mailcell-bench --bench micro -- {{FILTER}}

# What continuous integration runs.
ci:
    .ci/run
