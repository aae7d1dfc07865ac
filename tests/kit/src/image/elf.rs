//! Whether a program can start in an image that holds nothing else.
//!
//! The layout is that of the ELF specification: <https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html>.

use anyhow::{Result, bail};

use super::Architecture;

/// The segment that names a dynamic linker.
const PT_INTERP: u32 = 3;

/// Fails, saying why, unless `program` is an ELF file for `architecture` that needs no dynamic linker.
pub(super) fn check_static(program: &[u8], architecture: Architecture) -> Result<()> {
    let machine = match architecture {
        Architecture::Amd64 => 0x3e,
        Architecture::Arm64 => 0xb7,
    };
    // 64 bits, little-endian: both architectures are.
    if program.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF program");
    }
    if u16_at(program, 18) != Some(machine) {
        bail!("not a program for {}", architecture.name());
    }
    let (Some(table), Some(size), Some(count)) = (u64_at(program, 32), u16_at(program, 54), u16_at(program, 56)) else {
        bail!("a truncated ELF header");
    };
    for index in 0..u64::from(count) {
        let offset = table.checked_add(index * u64::from(size)).and_then(|offset| usize::try_from(offset).ok());
        match offset.and_then(|offset| u32_at(program, offset)) {
            Some(PT_INTERP) => bail!("dynamically linked: its linker is in no image (build it with +crt-static)"),
            Some(_) => {}
            None => bail!("a truncated table of segments"),
        }
    }
    Ok(())
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes_at(bytes, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A program's header and its table of segments, of these types.
    pub(crate) fn program(machine: u16, segments: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap_or(u16::MAX).to_le_bytes());
        for segment in segments {
            let mut header = vec![0; 56];
            header[..4].copy_from_slice(&segment.to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn a_program_without_an_interpreter_is_static() {
        assert!(check_static(&program(0x3e, &[1, 1, 2]), Architecture::Amd64).is_ok());
        assert!(check_static(&program(0xb7, &[1]), Architecture::Arm64).is_ok());
    }

    #[test]
    fn what_would_not_start_is_refused_with_the_reason() {
        let said = |bytes: &[u8]| check_static(bytes, Architecture::Amd64).err().map(|error| error.to_string());
        let refusal = |bytes: &[u8], word: &str| said(bytes).is_some_and(|words| words.contains(word));
        assert!(refusal(b"#!/bin/sh\n", "not a 64-bit"));
        assert!(refusal(&program(0xb7, &[1]), "not a program for amd64"));
        assert!(refusal(&program(0x3e, &[1, PT_INTERP]), "dynamically linked"));
        assert!(refusal(&program(0x3e, &[1, 1])[..70], "truncated"));
    }
}
