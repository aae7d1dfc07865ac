//! `kit`: what the Makefile and a person need of the test kit outside a test run.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use linkerd_gate_kit::{
    image::{Architecture, Image, size_of, static_binaries},
    parts::{ApiParts, NodeParts, Release, find_actionlint, find_helm, find_kwok, find_promtool},
};

/// The test kit's tools: genuine cluster parts, images without a container engine.
#[derive(Parser)]
#[command(name = "kit")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetches and builds the genuine cluster parts that tests need, and prints where they are.
    Parts {
        /// Those of a control plane, or those of nodes as well.
        #[arg(value_enum, default_value = "node")]
        set: Set,
    },
    /// Prints where a program is that tests use, and fetches and builds it first.
    Find {
        /// Which one.
        #[arg(value_enum)]
        program: Program,
    },
    /// Makes a container image out of static programs, for `ctr images import`, `docker load` or `podman load`.
    Image(ImageArguments),
    /// Builds linkerd-gate's two programs as static ones, and prints their directory.
    Static {
        /// Cargo's name of the profile.
        #[arg(long, default_value = "release")]
        profile: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Set {
    Api,
    Node,
}

#[derive(Clone, Copy, ValueEnum)]
enum Program {
    Actionlint,
    Helm,
    Kwok,
    Promtool,
}

#[derive(Args)]
struct ImageArguments {
    /// A static program and its path in the image; may be repeated.
    #[arg(long = "program", value_name = "PATH=FILE", required = true)]
    programs: Vec<String>,
    /// What the image is called: NAME:TAG.
    #[arg(long)]
    tag: String,
    /// The archive to write.
    #[arg(long)]
    output: PathBuf,
    /// The path of the program that the image runs.
    #[arg(long, value_name = "PATH")]
    entrypoint: String,
    /// The user that runs it, a number.
    #[arg(long, default_value = "0")]
    user: String,
    /// amd64 or arm64 [default: this machine's].
    #[arg(long)]
    arch: Option<String>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// An environment variable; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    variables: Vec<String>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Parts { set } => parts(set),
        Command::Find { program } => find(program).map(|path| println!("{}", path.display())),
        Command::Image(arguments) => image(&arguments),
        Command::Static { profile } => build(&profile),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parts(set: Set) -> Result<()> {
    match set {
        Set::Api => println!("{:#?}", ApiParts::find()?),
        Set::Node => println!("{:#?}", NodeParts::find()?),
    }
    for release in [Release::Oldest, Release::Newest] {
        println!("kube-apiserver {}: {}", release.version(), ApiParts::find_with(release)?.kube_apiserver.display());
    }
    println!("kwok: {}", find_kwok()?.display());
    println!("helm: {}", find_helm()?.display());
    Ok(())
}

fn find(program: Program) -> Result<PathBuf> {
    match program {
        Program::Actionlint => find_actionlint(),
        Program::Helm => find_helm(),
        Program::Kwok => find_kwok(),
        Program::Promtool => find_promtool(),
    }
}

fn build(profile: &str) -> Result<()> {
    eprintln!("building linkerd-gate's two programs, static (about 4 minutes the first time)");
    let [full, _waiting] = static_binaries("linkerd-gate", ["linkerd-gate", "gate-wait"], profile)?;
    println!("{}", full.parent().context("a program without a directory")?.display());
    Ok(())
}

fn image(arguments: &ImageArguments) -> Result<()> {
    let architecture = match &arguments.arch {
        Some(name) => Architecture::named(name)?,
        None => Architecture::host()?,
    };
    let programs = pairs(&arguments.programs)?;
    let entrypoint = arguments.entrypoint.as_str();
    ensure!(programs.iter().any(|(path, _)| *path == entrypoint), "no --program has the path {entrypoint}");
    let mut image = Image::new(&arguments.tag, architecture).with_entrypoint(&[entrypoint]).with_user(&arguments.user);
    for (path, file) in programs {
        image = image.with_program(path, Path::new(file))?;
    }
    for (name, value) in pairs(&arguments.labels)? {
        image = image.with_label(name, value);
    }
    for (name, value) in pairs(&arguments.variables)? {
        image = image.with_variable(name, value);
    }
    image.write(&arguments.output)?;
    let size = size_of(&arguments.output)?;
    println!("{}: {} for {}, {size} bytes", arguments.output.display(), image.name(), architecture.name());
    Ok(())
}

fn pairs(words: &[String]) -> Result<Vec<(&str, &str)>> {
    words.iter().map(|word| word.split_once('=').with_context(|| format!("not NAME=VALUE: {word}"))).collect()
}
