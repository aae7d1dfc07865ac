//! `deploy/manifests/optional/60-auto-init.yaml` on a genuine API server: which pods get the entry of `wait`, that it is the
//! documented one, and that nobody slips past it when the API server starts.

#[expect(dead_code, reason = "why Linkerd skips a pod is all the same to the policy")]
#[path = "../corpus/load.rs"]
mod load;

mod corpus;
mod entry;
mod lasting;
mod spared;
mod stage;
mod values;

use anyhow::Result;

use self::stage::Stage;

/// One control plane for all of it: what is installed in it changes from one story to the next.
#[tokio::test]
async fn pods_that_ask_get_the_documented_entry_and_others_stay_as_they_are() -> Result<()> {
    let stage = Stage::set().await?;
    let stories = async {
        lasting::without_linkerd_nothing_is_added_and_nothing_refused(&stage).await?;
        entry::it_is_what_the_readme_gives_people_to_paste(&stage).await?;
        entry::wait_and_explain_take_it(&stage).await?;
        entry::it_is_first_among_the_users_own_in_an_injected_pod(&stage).await?;
        entry::the_restricted_level_admits_it(&stage).await?;
        entry::a_namespaces_limits_count_for_it(&stage).await?;
        entry::a_controllers_pods_get_it(&stage).await?;
        spared::who_does_not_ask_gets_nothing(&stage).await?;
        spared::somebodys_own_entry_is_left_alone(&stage).await?;
        spared::a_label_opts_out(&stage).await?;
        spared::what_the_gate_waits_for_is_left_alone(&stage).await?;
        values::every_value_is_followed(&stage).await?;
        values::a_value_that_cannot_be_read_refuses_those_who_ask_and_nobody_else(&stage).await?;
        values::a_linkerd_elsewhere_is_named_and_two_of_them_add_one_entry(&stage).await?;
        lasting::a_pod_that_somebody_else_makes_ask_gets_it(&stage).await
    };
    stage.cluster.reported(&[], stories).await
}

#[tokio::test]
async fn each_case_of_the_corpus_gets_it_exactly_where_linkerd_would_inject() -> Result<()> {
    corpus::every_case().await
}

#[tokio::test]
async fn nobody_slips_past_it_while_the_api_server_starts() -> Result<()> {
    lasting::through_three_starts_of_the_api_server().await
}
