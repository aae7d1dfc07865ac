//! Certificates, keys and tokens of a cluster.

use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// What a cluster proves identities with, as files in one directory.
pub(super) struct Credentials {
    directory: PathBuf,
    authority_pem: String,
    issuer: Issuer<'static, KeyPair>,
    server: String,
    admin: Token,
    tokens: Vec<Token>,
}

/// A user that the API server knows by a line of its token file.
#[derive(Clone, Debug)]
pub(super) struct Token {
    user: String,
    group: Option<&'static str>,
    secret: String,
}

// === impl Credentials ===

impl Credentials {
    /// Makes a certificate authority, the API server's certificate, the key of service account tokens and one token for
    /// each role, kubelets of `nodes` included.
    pub(super) fn make(directory: PathBuf, address: Ipv4Addr, service: Ipv4Addr, nodes: &[&str]) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, "linkerd-gate-test-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let authority_pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);

        let roles = [
            ("kube-controller-manager", "system:kube-controller-manager".to_owned(), None),
            ("kube-scheduler", "system:kube-scheduler".to_owned(), None),
            ("kube-proxy", "system:kube-proxy".to_owned(), None),
            ("kwok", "kwok".to_owned(), Some("system:masters")),
        ];
        let kubelets = nodes.iter().map(|node| (*node, format!("system:node:{node}"), Some("system:nodes")));
        let admin = Token { user: "admin".to_owned(), group: Some("system:masters"), secret: secret()? };
        let mut credentials = Self {
            directory,
            authority_pem,
            issuer,
            server: format!("https://{address}:{}", super::API_SERVER_PORT),
            admin,
            tokens: Vec::new(),
        };
        credentials.write("ca.crt", &credentials.authority_pem)?;
        for (file, user, group) in roles.into_iter().chain(kubelets) {
            let token = Token { user, group, secret: secret()? };
            credentials.write(&format!("{file}.kubeconfig"), &credentials.kubeconfig(&token.secret, "default"))?;
            credentials.tokens.push(token);
        }
        credentials.write("admin.kubeconfig", &credentials.kubeconfig(&credentials.admin.secret, "default"))?;
        credentials.write_tokens()?;
        credentials.sign_server("apiserver", address, service)?;
        // The API server is a client too: it fetches logs from kubelets.
        let group = Some("system:masters");
        credentials.sign("apiserver-kubelet", &[], "kube-apiserver", group, ExtendedKeyUsagePurpose::ClientAuth)?;
        let key = KeyPair::generate()?;
        credentials.write("service-accounts.key", &key.serialize_pem())?;
        credentials.write("service-accounts.pub", &key.public_key_pem())?;
        Ok(credentials)
    }

    /// Makes the certificate of an API server at `address`, in files that begin with `file`.
    pub(super) fn sign_server(&self, file: &str, address: Ipv4Addr, service: Ipv4Addr) -> Result<()> {
        let names = [
            address.to_string(),
            service.to_string(),
            Ipv4Addr::LOCALHOST.to_string(),
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            "kubernetes.default.svc.cluster.local".to_owned(),
        ];
        self.sign(file, &names, "kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The path of one of the files that were made: `ca.crt`, `apiserver.crt`, `admin.kubeconfig`, …
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The API server's URL.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// The authority that signed the API server's certificate, in PEM.
    pub(super) fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The administrator's secret.
    pub(super) fn admin(&self) -> &str {
        &self.admin.secret
    }

    /// A kubeconfig for the bearer of `token`. It is JSON, which every reader of YAML reads.
    pub(super) fn kubeconfig(&self, token: &str, namespace: &str) -> String {
        self.kubeconfig_at(&self.server, token, namespace)
    }

    /// The same for an API server elsewhere.
    pub(super) fn kubeconfig_at(&self, server: &str, token: &str, namespace: &str) -> String {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                // By value, so that the file can be read from within a container or another directory.
                "certificate-authority-data": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &self.authority_pem),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        });
        format!("{text:#}\n")
    }

    /// A client for the bearer of `token`, which lives as long as the async runtime of the caller.
    pub(super) async fn client(&self, token: &str) -> Result<kube::Client> {
        self.client_at(&self.server, token).await
    }

    /// The same for an API server elsewhere.
    pub(super) async fn client_at(&self, server: &str, token: &str) -> Result<kube::Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_at(server, token, "default"))?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // A test wants to see the first answer, not the one after three more tries.
        config.default_retry = false;
        Ok(kube::Client::try_from(config)?)
    }

    fn sign(
        &self,
        file: &str,
        names: &[String],
        user: &str,
        group: Option<&str>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<()> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write_tokens(&self) -> Result<()> {
        let mut text = String::new();
        for Token { user, group, secret } in self.tokens.iter().chain([&self.admin]) {
            let _ = match group {
                Some(group) => writeln!(text, "{secret},{user},{user},{group}"),
                None => writeln!(text, "{secret},{user},{user}"),
            };
        }
        self.write("tokens.csv", &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write(&self.directory, name, text)
    }
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A word that nobody guesses.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("no /dev/urandom")?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
