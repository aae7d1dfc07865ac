//! Why a kubeconfig cannot be used, in words for its author: kube's own quote paths and outputs as Rust does.

use kube::client::AuthError;
use kube::config::{KubeconfigError, LoadDataError};

/// What is wrong with the kubeconfig.
pub(super) fn words(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => {
            "the kubeconfig has no current context: kubectl config use-context NAME".to_owned()
        }
        KubeconfigError::LoadContext(name) => format!("the kubeconfig has no context {name}"),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("the kubeconfig has no cluster {name}, which its context names")
        }
        KubeconfigError::FindPath => "HOME is not set, so there is no ~/.kube/config".to_owned(),
        KubeconfigError::ReadConfig(error, path) => format!("{} cannot be read: {}", path.display(), of_system(error)),
        KubeconfigError::Parse(error) => {
            let error = error.to_string();
            let error = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("the kubeconfig is not of the form that kubectl reads: {error}")
        }
        KubeconfigError::MissingClusterUrl => "the kubeconfig's cluster has no server".to_owned(),
        KubeconfigError::ParseClusterUrl(error) => format!("the kubeconfig's server is no URL: {error}"),
        KubeconfigError::ParseProxyUrl(error) => format!("the kubeconfig's proxy-url is no URL: {error}"),
        KubeconfigError::LoadCertificateAuthority(error) => of_data("certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => of_data("client-certificate", error),
        KubeconfigError::LoadClientKey(error) => of_data("client-key", error),
        KubeconfigError::ParseCertificates(error) => format!("a certificate in the kubeconfig is no PEM: {error}"),
        other => other.to_string(),
    }
}

fn of_data(field: &str, error: &LoadDataError) -> String {
    match error {
        LoadDataError::DecodeBase64(error) => format!("the kubeconfig's {field}-data is not base64: {error}"),
        LoadDataError::ReadFile(error, path) => {
            format!("the kubeconfig's {field} {} cannot be read: {}", path.display(), of_system(error))
        }
        LoadDataError::NoBase64DataOrFile => format!("the kubeconfig has neither {field}-data nor {field}"),
    }
}

/// What is wrong with the credentials, where kube would print a program's output as Rust holds it.
pub(super) fn of_credentials(error: &AuthError) -> Option<String> {
    match error {
        AuthError::AuthExecStart(error) => {
            Some(format!("the kubeconfig's credential plug-in cannot be started: {}", of_system(error)))
        }
        AuthError::AuthExecRun { out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
            Some(format!("the kubeconfig's credential plug-in (users[].user.exec) failed ({}): {said}", out.status))
        }
        AuthError::ReadTokenFile(error, path) => {
            Some(format!("the kubeconfig's tokenFile {} cannot be read: {}", path.display(), of_system(error)))
        }
        _ => None,
    }
}

/// The operating system's words, without its number.
fn of_system(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Config;
    use kube::config::{KubeConfigOptions, Kubeconfig};

    async fn message(yaml: &str) -> String {
        match Kubeconfig::from_yaml(yaml) {
            Ok(kubeconfig) => {
                let read = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
                words(&read.unwrap_err())
            }
            Err(error) => words(&error),
        }
    }

    #[tokio::test]
    async fn no_error_speaks_of_rust() {
        let one = |cluster: &str, context: &str| {
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: k, cluster: {{{cluster}}}}}]\n\
                 contexts: [{{name: {context}, context: {{cluster: k, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
            )
        };
        for (yaml, begins) in [
            ("apiVersion: v1\nkind: Config\n".to_owned(), "the kubeconfig has no current context"),
            (one("server: 'https://a'", "other"), "the kubeconfig has no context c"),
            (
                one("server: 'https://a'", "c").replace("cluster: k, user", "cluster: l, user"),
                "the kubeconfig has no cluster l",
            ),
            (one("", "c"), "the kubeconfig's cluster has no server"),
            (one("server: 'http://a b'", "c"), "the kubeconfig's server is no URL: "),
            ("a: [".to_owned(), "the kubeconfig is not of the form that kubectl reads: "),
            ("- a\n".to_owned(), "the kubeconfig is not of the form that kubectl reads: "),
            (
                one("server: 'https://a', certificate-authority: /no/such/ca", "c"),
                "the kubeconfig's certificate-authority /no/such/ca cannot be read: No such file or directory",
            ),
            (
                one("server: 'https://a', certificate-authority-data: '*'", "c"),
                "the kubeconfig's certificate-authority-data is not base64",
            ),
        ] {
            let message = message(&yaml).await;
            assert!(message.starts_with(begins), "{yaml}: {message}");
            assert!(!message.contains("os error") && !message.contains('{') && !message.contains('\n'), "{message}");
        }
        let missing = Kubeconfig::read_from("/no/such").unwrap_err();
        assert_eq!(words(&missing), "/no/such cannot be read: No such file or directory");
    }
}
