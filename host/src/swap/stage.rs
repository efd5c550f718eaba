//! A file becomes a generation: its bytes are checked, and compiled by a process of its own, which can be ended when it
//! takes too long or too much. The bytes that were checked are the bytes that run.

use crate::cell::{self, Engine, Generation, limits};
use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Checks and compiles a component.
///
/// # Errors
/// One line that says what is wrong with it.
pub async fn stage(engine: &Engine, component: Vec<u8>) -> anyhow::Result<Generation> {
    let artifact = timeout(limits::COMPILE_TIME_MAX, compile(&component)).await;
    let artifact =
        artifact.map_err(|_| anyhow::anyhow!("it takes longer than {:?} to compile", limits::COMPILE_TIME_MAX))??;
    let engine = engine.clone();
    let generation = tokio::task::spawn_blocking(move || Generation::from_artifact(&engine, &component, &artifact));
    Ok(generation.await??)
}

/// Has a child compile, and takes the code from its output.
async fn compile(component: &[u8]) -> anyhow::Result<Vec<u8>> {
    cell::check_kind(component)?;
    // The file of this very program, also when it has been replaced on disk.
    let program = Path::new("/proc/self/exe");
    let program = if program.exists() { program.to_owned() } else { std::env::current_exe()? };
    let mut child = Command::new(program)
        .args(["core", "compile"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a process to compile")?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("a process to compile has no pipes");
    };
    let feed = async {
        // A child that has failed reads no more; what it says tells why.
        let _ = stdin.write_all(component).await;
        drop(stdin);
        anyhow::Ok(())
    };
    // The first error ends all three, and with them the child.
    let (artifact, errors, ()) = tokio::try_join!(
        read(stdout, limits::ARTIFACT_OCTETS_MAX, "its compiled code is too large"),
        read(stderr, 64 << 10, "compiling it says too much"),
        feed
    )?;
    let status = child.wait().await?;
    match String::from_utf8_lossy(&errors).trim() {
        _ if status.success() => Ok(artifact),
        "" => bail!("it takes more time or memory to compile than it may ({status})"),
        errors => bail!("{}", errors.strip_prefix("mailcell: ").unwrap_or(errors)),
    }
}

async fn read(output: impl AsyncRead + Unpin, octets_max: u64, error: &'static str) -> anyhow::Result<Vec<u8>> {
    let mut octets = Vec::new();
    output.take(octets_max + 1).read_to_end(&mut octets).await?;
    if octets.len() as u64 > octets_max { bail!(error) } else { Ok(octets) }
}

/// The child's part: reads a component, writes its code.
///
/// # Errors
/// When the input is no component.
pub fn compile_here(mut input: impl Read, mut output: impl Write) -> anyhow::Result<()> {
    limit_this_process()?;
    let mut component = Vec::new();
    input.by_ref().take(limits::COMPONENT_OCTETS_MAX + 1).read_to_end(&mut component)?;
    let artifact = cell::compile(&component).map_err(|error| cell::CoreError::NotAComponent(format!("{error:#}")))?;
    output.write_all(&artifact)?;
    Ok(output.flush()?)
}

/// Before anything foreign is looked at.
fn limit_this_process() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = [
        (Resource::Cpu, limits::COMPILE_CPU_MAX.as_secs()),
        (Resource::As, limits::COMPILE_MEMORY_OCTETS_MAX),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ];
    for (resource, most) in limits {
        let most = getrlimit(resource).maximum.map_or(most, |allowed| allowed.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .context("cannot limit a process that compiles")?;
    }
    Ok(())
}
