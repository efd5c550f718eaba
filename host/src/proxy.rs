//! The PROXY protocol, versions 1 and 2: a proxy in front says first where the client is. Whoever speaks it is believed, so only
//! those that the configuration trusts may.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// How long a proxy may take to say where the client is.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest header of version 1, its CRLF counted.
const TEXT_OCTETS_MAX: usize = 107;

/// The longest header of version 2 behind its length: addresses, and what a proxy adds to them.
const BINARY_OCTETS_MAX: u16 = 4 << 10;

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header, and not an octet more. Gives the client's address; nothing when the proxy speaks for itself, or does
/// not know.
///
/// # Errors
/// When it is none, does not come, or is not whole.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    timeout(HEADER_TIMEOUT, read_either(stream)).await.unwrap_or_else(|_| Err(invalid("it does not come")))
}

async fn read_either<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    // The shortest header of version 1 has 15 octets: `PROXY UNKNOWN` and CRLF.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_binary(stream).await;
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == TEXT_OCTETS_MAX || !b"PROXY ".iter().zip(&line).all(|(a, b)| a == b) {
            return Err(invalid("it is none"));
        }
        line.push(stream.read_u8().await?);
    }
    str::from_utf8(&line).ok().and_then(|line| parse_text(line.trim_end())).ok_or_else(|| invalid("it makes no sense"))
}

fn parse_text(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ');
    let (_, family) = (words.next().filter(|word| *word == "PROXY")?, words.next()?);
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (port, _): (u16, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let is_sound = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (is_sound && words.next().is_none()).then_some(Some((source, port).into()))
}

async fn read_binary<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let (command, family, octets) = (stream.read_u8().await?, stream.read_u8().await?, stream.read_u16().await?);
    if octets > BINARY_OCTETS_MAX {
        return Err(invalid("it is too long"));
    }
    let mut rest = vec![0; octets.into()];
    stream.read_exact(&mut rest).await?;
    let short = || invalid("it is shorter than its addresses");
    match (command, family) {
        // LOCAL: the proxy itself, to see whether the server is there.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            let rest = rest.first_chunk::<12>().ok_or_else(short)?;
            let [a, b, c, d, .., port_high, port_low, _, _] = *rest;
            Ok(Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([port_high, port_low])).into()))
        }
        (0x21, 0x21) => {
            let rest = rest.first_chunk::<36>().ok_or_else(short)?;
            let (source, _) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            Ok(Some((Ipv6Addr::from(*source), u16::from_be_bytes([rest[32], rest[33]])).into()))
        }
        // What is no TCP, or not said.
        (0x21, _) => Ok(None),
        _ => Err(invalid("its version or command is not known")),
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these octets, and what is left of them.
    fn check(octets: &[u8]) -> (Result<Option<String>, String>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut rest = octets;
        let read = runtime.block_on(read(&mut rest));
        (read.map(|client| client.map(|client| client.to_string())).map_err(|error| error.to_string()), rest.len())
    }

    fn binary(command: u8, family: u8, octets: u16, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &octets.to_be_bytes(), rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 25];

    #[test]
    fn version_1() {
        let client = |text: &str| check(&[text.as_bytes(), b"EHLO"].concat());
        let at = |address: &str| (Ok(Some(address.to_owned())), 4);
        assert_eq!(client("PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n"), at("192.0.2.7:12345"));
        assert_eq!(client("PROXY TCP6 2001:db8::7 2001:db8::1 12345 25\r\n"), at("[2001:db8::7]:12345"));
        assert_eq!(client("PROXY UNKNOWN\r\n"), (Ok(None), 4));
        assert_eq!(client("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), (Ok(None), 4));
        for bad in [
            "PROXY TCP4 2001:db8::7 198.51.100.1 12345 25\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 12345 25 more\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 123456 25\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 12345 25\r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
            // As long as the octets that are looked at first.
            "EH UNKNOWN\r\n",
        ] {
            assert_eq!(client(bad).0, Err("it makes no sense".to_owned()), "{bad}");
        }
        assert_eq!(client("EHLO client.test\r\n").0, Err("it is none".to_owned()));
        assert_eq!(client(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(107))).0, Err("it is none".to_owned()));
    }

    #[test]
    fn version_2() {
        let at = |address: &str| Ok(Some(address.to_owned()));
        assert_eq!(check(&[&binary(0x21, 0x11, 12, &IPV4)[..], b"EHLO"].concat()), (at("192.0.2.7:12345"), 4));
        // With what a proxy adds behind the addresses.
        let added = [&IPV4[..], &[3, 0, 1, 9]].concat();
        assert_eq!(check(&[&binary(0x21, 0x11, 16, &added)[..], b"EHLO"].concat()), (at("192.0.2.7:12345"), 4));
        let source: [u8; 16] = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets();
        let ipv6 = [&source[..], &source, &[0x30, 0x39, 0, 25]].concat();
        assert_eq!(check(&binary(0x21, 0x21, 36, &ipv6)), (at("[2001:db8::7]:12345"), 0));
        assert_eq!(check(&binary(0x20, 0, 0, b"EHLO")), (Ok(None), 4));
        assert_eq!(check(&binary(0x21, 0x31, 2, b"xxEHLO")), (Ok(None), 4));
        assert_eq!(check(&binary(0x21, 0x11, 4, &IPV4)).0, Err("it is shorter than its addresses".to_owned()));
        assert_eq!(check(&binary(0x21, 0x11, 5_000, &[0; 5_000])).0, Err("it is too long".to_owned()));
        assert_eq!(check(&binary(0x31, 0x11, 12, &IPV4)).0, Err("its version or command is not known".to_owned()));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = [binary(0x21, 0x11, 12, &IPV4), b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 25\r\n".to_vec()];
        for whole in whole {
            for octets in 0..whole.len() {
                assert!(check(&whole[..octets]).0.is_err(), "{octets} octets");
            }
        }
    }
}
