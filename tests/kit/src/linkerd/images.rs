//! Which images there are, and which ones are needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The archives in a directory, by name.
pub(super) fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}: Linkerd's images belong there", directory.display()))?;
    let mut archives: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    archives.sort();
    ensure!(!archives.is_empty(), "{} has no archive of an image (*.tar)", directory.display());
    Ok(archives)
}

/// Fails where an object's pods need an image that none of the archives has.
pub(super) fn check(objects: &[Value], archives: &[PathBuf]) -> Result<()> {
    let mut there = BTreeSet::new();
    for archive in archives {
        there.extend(names(archive).with_context(|| archive.display().to_string())?);
    }
    for (image, user) in needed(objects) {
        if !there.contains(&whole_name(&image)) {
            let file = image.rsplit('/').next().unwrap_or(&image).replace([':', '@'], "-");
            bail!(
                "image {image}, which {user} needs, is in none of images/*.tar: `crane pull {image} images/{file}.tar`"
            );
        }
    }
    Ok(())
}

/// The images that pods of these objects run, each with one object that needs it.
fn needed(objects: &[Value]) -> BTreeMap<String, String> {
    let mut needed = BTreeMap::new();
    for object in objects {
        let user = format!(
            "{} {}",
            object["kind"].as_str().unwrap_or("an object"),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        collect(object, &user, &mut needed);
    }
    needed
}

/// Wherever an object has pods in it: a Deployment's template, a CronJob's, one deeper.
fn collect(value: &Value, user: &str, needed: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                if key == "containers" || key == "initContainers" {
                    let containers = field.as_array().into_iter().flatten();
                    for image in containers.filter_map(|container| container["image"].as_str()) {
                        needed.entry(image.to_owned()).or_insert_with(|| user.to_owned());
                    }
                }
                collect(field, user, needed);
            }
        }
        Value::Array(list) => list.iter().for_each(|item| collect(item, user, needed)),
        _ => {}
    }
}

/// The names in an archive's `manifest.json`, which both `docker save` and `crane pull` write.
fn names(archive: &Path) -> Result<Vec<String>> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    for entry in archive.entries().context("not an image's archive")? {
        let entry = entry.context("not an image's archive")?;
        if entry.path()?.as_os_str() == "manifest.json" {
            let manifest: Value = serde_json::from_reader(entry).context("manifest.json")?;
            let tags = manifest.as_array().into_iter().flatten().filter_map(|image| image["RepoTags"].as_array());
            return Ok(tags.flatten().filter_map(Value::as_str).map(whole_name).collect());
        }
    }
    bail!("no manifest.json in it: is it an image's archive?")
}

/// With the registry and the path that a short name stands for.
/// (<https://github.com/distribution/reference/blob/main/normalize.go>)
fn whole_name(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_found_wherever_pods_are() {
        let pod =
            |image: &str| json!({"spec": {"containers": [{"image": image}], "initContainers": [{"image": "init:1"}]}});
        let objects = [
            json!({"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": pod("app:1")}}),
            json!({"kind": "CronJob", "metadata": {"name": "b"}, "spec": {"jobTemplate": {"spec": {"template": pod("job:1")}}}}),
            json!({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"image": "none:1"}}),
        ];
        let found: Vec<String> = needed(&objects).into_keys().collect();
        assert_eq!(found, ["app:1", "init:1", "job:1"]);
        assert_eq!(needed(&objects)["job:1"], "CronJob b");
    }

    #[test]
    fn a_short_name_is_the_same_image_as_its_whole_one() {
        assert_eq!(whole_name("app:1"), "docker.io/library/app:1");
        assert_eq!(whole_name("team/app:1"), "docker.io/team/app:1");
        assert_eq!(whole_name("cr.l5d.io/linkerd/proxy:edge-26.8.3"), "cr.l5d.io/linkerd/proxy:edge-26.8.3");
        assert_eq!(whole_name("localhost/app:1"), "localhost/app:1");
    }
}
