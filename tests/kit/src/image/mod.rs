//! Container images out of static binaries, without a container engine.
//!
//! An image is written as the archive that `docker save` writes: a `manifest.json`, a configuration, and one layer. That
//! is what `ctr images import`, `docker load` and `podman load` read. The same input gives the same bytes.

mod elf;
mod layer;
mod static_binary;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use layer::Layer;
pub use static_binary::{kit_binary, make_image, static_binaries};

/// The processor that an image is for, in the words of image configurations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// An image with one layer.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    architecture: Architecture,
    layer: Layer,
    entrypoint: Vec<String>,
    user: String,
    environment: Vec<String>,
    labels: BTreeMap<String, String>,
}

// === impl Architecture ===

impl Architecture {
    /// This machine's.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no images are made for {other}"),
        }
    }

    /// The one called `name`: `amd64` or `arm64`.
    pub fn named(name: &str) -> Result<Self> {
        [Self::Amd64, Self::Arm64]
            .into_iter()
            .find(|architecture| architecture.name() == name)
            .with_context(|| format!("no such architecture: {name}; there are amd64 and arm64"))
    }

    /// As image configurations write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

// === impl Image ===

impl Image {
    /// An empty image called `name`, for instance `linkerd-gate:test`, for this architecture.
    ///
    /// Kubernetes pulls a tag `latest`, or an absent one, by default, so choose another.
    pub fn new(name: &str, architecture: Architecture) -> Self {
        Self {
            name: name.to_owned(),
            architecture,
            layer: Layer::default(),
            entrypoint: Vec::new(),
            user: String::new(),
            environment: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// With the static program at `source` as the executable file `path`, for instance `/linkerd-gate`.
    ///
    /// A program that is for another architecture, or that needs a dynamic linker, is refused: it would not start.
    pub fn with_program(mut self, path: &str, source: &Path) -> Result<Self> {
        let bytes = std::fs::read(source).with_context(|| format!("cannot read the program {}", source.display()))?;
        elf::check_static(&bytes, self.architecture).with_context(|| source.display().to_string())?;
        self.layer.add(path, 0o755, bytes)?;
        Ok(self)
    }

    /// With a file that everybody may read.
    pub fn with_file(mut self, path: &str, content: &[u8]) -> Result<Self> {
        self.layer.add(path, 0o644, content.to_vec())?;
        Ok(self)
    }

    /// With a program to run, which a container's `args` follow.
    #[must_use]
    pub fn with_entrypoint(mut self, entrypoint: &[&str]) -> Self {
        self.entrypoint = entrypoint.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Run by this user: a number, or `number:number` with a group, since a scratch image has no list of names.
    #[must_use]
    pub fn with_user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// With a label, for instance `org.opencontainers.image.source`.
    #[must_use]
    pub fn with_label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the image's archive to the file `path`, all at once: the file is complete or absent.
    pub fn write(&self, path: &Path) -> Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot make a file in {}", directory.display()))?;
        self.write_to(BufWriter::new(file.as_file()))?;
        // Whoever may read the directory may read the image.
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }

    /// Writes the image's archive.
    pub fn write_to(&self, output: impl Write) -> Result<()> {
        let layer = self.layer.archive()?;
        let layer_digest = digest(&layer);
        let configuration = serde_json::to_vec(&self.configuration(&layer_digest))?;
        let configuration_name = format!("{}.json", digest(&configuration));
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest = json!([{"Config": configuration_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        let mut archive = Layer::default();
        archive.add(&configuration_name, 0o644, configuration)?;
        archive.add(&layer_name, 0o644, layer)?;
        archive.add("manifest.json", 0o644, serde_json::to_vec(&manifest)?)?;
        let mut output = output;
        output.write_all(&archive.archive()?)?;
        output.flush()?;
        Ok(())
    }

    /// The configuration, as <https://github.com/opencontainers/image-spec/blob/main/config.md> describes it.
    fn configuration(&self, layer_digest: &str) -> serde_json::Value {
        // No time of creation: an image of the same content is the same image.
        json!({
            "architecture": self.architecture.name(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user,
                "Env": self.environment,
                "Labels": self.labels,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        })
    }
}

/// The size of the file at `path`, in bytes.
pub fn size_of(path: &Path) -> Result<u64> {
    Ok(File::open(path)?.metadata()?.len())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// The smallest file that passes for a static program.
    fn program() -> Vec<u8> {
        elf::tests::program(0x3e, &[])
    }

    fn image(directory: &Path) -> Result<Image> {
        let source = directory.join("program");
        std::fs::write(&source, program())?;
        Ok(Image::new("gate:test", Architecture::Amd64)
            .with_program("/linkerd-gate", &source)?
            .with_file("/etc/some/file", b"text")?
            .with_entrypoint(&["/linkerd-gate"])
            .with_user("2102")
            .with_label("org.opencontainers.image.title", "linkerd-gate"))
    }

    fn entries(archive: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut archive = tar::Archive::new(archive);
        let mut found = BTreeMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            found.insert(entry.path()?.display().to_string(), content);
        }
        Ok(found)
    }

    #[test]
    fn the_manifest_leads_to_the_configuration_and_the_layer() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut archive = Vec::new();
        image(directory.path())?.write_to(&mut archive)?;
        let outer = entries(&archive)?;
        let manifest: serde_json::Value = serde_json::from_slice(&outer["manifest.json"])?;
        assert_eq!(manifest[0]["RepoTags"][0], "gate:test");
        let configuration = &outer[manifest[0]["Config"].as_str().context("no configuration named")?];
        let layer = &outer[manifest[0]["Layers"][0].as_str().context("no layer named")?];
        let configuration: serde_json::Value = serde_json::from_slice(configuration)?;
        assert_eq!(configuration["architecture"], "amd64");
        assert_eq!(configuration["config"]["User"], "2102");
        assert_eq!(configuration["config"]["Entrypoint"][0], "/linkerd-gate");
        assert_eq!(configuration["rootfs"]["diff_ids"][0], format!("sha256:{}", digest(layer)));
        let inner = entries(layer)?;
        assert_eq!(inner["linkerd-gate"], program());
        assert_eq!(inner["etc/some/file"], b"text");
        Ok(())
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        image(directory.path())?.write_to(&mut first)?;
        image(directory.path())?.write_to(&mut second)?;
        assert!(first == second);
        Ok(())
    }

    #[test]
    fn architectures_are_found_by_the_name_they_print() -> Result<()> {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            assert_eq!(Architecture::named(architecture.name())?, architecture);
        }
        assert!(Architecture::named("x86_64").is_err());
        Ok(())
    }
}
