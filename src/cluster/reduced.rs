//! Objects that are reduced while they are read: of a page of a list, one whole object is in memory at a time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt::Debug;

/// What is kept of an object.
pub trait Reduce: Clone + Debug {
    /// The object.
    type Of: Resource<DynamicType = ()> + DeserializeOwned;

    /// What of it decides.
    fn reduce(object: &Self::Of) -> Self;
}

/// What is kept of an object, with what a watch needs to follow it.
#[derive(Clone, Debug)]
pub struct Reduced<V> {
    metadata: ObjectMeta,
    /// What decides.
    pub view: V,
}

impl<'de, V: Reduce> Deserialize<'de> for Reduced<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = V::Of::deserialize(deserializer)?;
        let view = V::reduce(&object);
        let ObjectMeta { name, namespace, resource_version, .. } = std::mem::take(object.meta_mut());
        Ok(Self { metadata: ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() }, view })
    }
}

/// As which it is asked for: the object itself.
impl<V: Reduce> Resource for Reduced<V> {
    type DynamicType = ();
    type Scope = <V::Of as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        V::Of::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        V::Of::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        V::Of::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        V::Of::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
