//! Real commits, judged as the committer judges them and as the service does: each act by each role under each policy, and who is in the
//! group afterwards.

#![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod membership;
mod scene;

use openmls::prelude::LeafNodeIndex;
use valise_group_rules::{Act, ExternalJoin, GroupLimits, Policy, Role};

use scene::{Device, NAMES, Plan, RANKS, Scene, VICTIM, external_commit, judge_as_service, outcome, user};

#[test]
fn each_act_by_each_role_under_each_policy() {
    for least in Role::ALL {
        let policy = Act::ALL
            .into_iter()
            .fold(Policy::default(), |policy, act| policy.with(act, least));
        let mut scene = Scene::new(policy);
        for (by, rank) in RANKS.into_iter().enumerate() {
            let (name, allowed) = (NAMES[by], rank >= least);
            let expected = |rule| if allowed { Ok(()) } else { Err(rule) };
            let what = format!("{name}, least {least}");

            let adds = vec![Device::new(&scene.authority, "newcomer").package()];
            let judged = scene.judge(
                by,
                Plan {
                    adds,
                    ..Plan::default()
                },
            );
            assert_eq!(outcome(&judged), expected("role_add"), "add: {what}");

            let removals = vec![LeafNodeIndex::new(VICTIM)];
            let judged = scene.judge(
                by,
                Plan {
                    removals,
                    ..Plan::default()
                },
            );
            let beyond = allowed && rank < Role::Member;
            let removes = if beyond {
                Err("role_above")
            } else {
                expected("role_remove")
            };
            assert_eq!(outcome(&judged), removes, "remove: {what}");

            let roles = Some(scene.roles.clone().with(user("victim"), Role::Reader));
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            let changes = if beyond {
                Err("role_above")
            } else {
                expected("role_change")
            };
            assert_eq!(outcome(&judged), changes, "change a role: {what}");
            if let Ok(summary) = judged {
                let change = summary.roles.unwrap();
                assert_eq!(
                    (change.users, change.policy),
                    (vec![(user("victim"), Role::Reader)], None)
                );
            }

            let other = Policy::default().with(Act::Send, Role::Moderator);
            let roles = Some(scene.roles.clone().with_policy(other));
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            assert_eq!(
                outcome(&judged),
                expected("role_change"),
                "change the policy: {what}"
            );

            // What every member may: new keys, and its own user's devices. Also a change that changes nothing.
            let adds = vec![Device::new(&scene.authority, name).package()];
            let removals = vec![LeafNodeIndex::new(4 + u32::try_from(by).unwrap())];
            let judged = scene.judge(
                by,
                Plan {
                    adds,
                    removals,
                    ..Plan::default()
                },
            );
            assert_eq!(outcome(&judged), Ok(()), "own devices: {what}");
            let path = Plan {
                path: true,
                ..Plan::default()
            };
            assert_eq!(outcome(&scene.judge(by, path)), Ok(()), "new keys: {what}");
            let roles = Some(scene.roles.clone());
            let judged = scene.judge(
                by,
                Plan {
                    roles,
                    ..Plan::default()
                },
            );
            assert!(judged.unwrap().roles.is_none(), "nothing: {what}");
        }
    }
}

#[test]
fn nobody_rises_and_acts_with_one_commit() {
    let mut scene = Scene::new(Policy::default().with(Act::ChangeRoles, Role::Member));
    let adds = vec![Device::new(&scene.authority, "newcomer").package()];
    let open = Policy::default().with(Act::Add, Role::Reader);
    let roles = Some(scene.roles.clone().with_policy(open));
    let judged = scene.judge(
        2,
        Plan {
            adds,
            roles,
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("role_add"));
}

#[test]
fn the_last_owner_cannot_step_down_but_may_hand_over() {
    let mut scene = Scene::new(Policy::default());
    let down = scene.roles.clone().with(user("owner"), Role::Member);
    let judged = scene.judge(
        0,
        Plan {
            roles: Some(down.clone()),
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("last_owner"));
    // Not to somebody who goes with the same commit, nor to somebody who is not there.
    let victim = down.clone().with(user("victim"), Role::Owner);
    let removals = vec![LeafNodeIndex::new(VICTIM)];
    let roles = Some(victim.clone());
    let judged = scene.judge(
        0,
        Plan {
            removals,
            roles,
            ..Plan::default()
        },
    );
    assert_eq!(outcome(&judged), Err("last_owner"));
    let roles = Some(down.clone().with(user("stranger"), Role::Owner));
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                roles,
                ..Plan::default()
            }
        )),
        Err("last_owner")
    );
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                roles: Some(victim),
                ..Plan::default()
            }
        )),
        Ok(())
    );
    // To somebody who comes with the same commit.
    let adds = vec![Device::new(&scene.authority, "heir").package()];
    let roles = Some(down.with(user("heir"), Role::Owner));
    assert_eq!(
        outcome(&scene.judge(
            0,
            Plan {
                adds,
                roles,
                ..Plan::default()
            }
        )),
        Ok(())
    );
}

#[test]
fn the_policy_says_who_comes_in_without_being_added() {
    let (lost, other, stranger) = ("lost its state", "another device", "a stranger");
    for (join, welcome) in [
        (ExternalJoin::Nobody, vec![]),
        (ExternalJoin::MemberDevices, vec![lost]),
        (ExternalJoin::MemberUsers, vec![lost, other]),
    ] {
        let policy = Policy {
            external_join: join,
            ..Policy::default()
        };
        let scene = Scene::new(policy);
        let public = scene.public();
        let (another, unknown) = (
            Device::new(&scene.authority, "reader"),
            Device::new(&scene.authority, "stranger"),
        );
        for (what, device) in [(lost, &scene.devices[1]), (other, &another), (stranger, &unknown)] {
            let message = external_commit(device, &scene.devices[0], &scene.groups[0]);
            let expected = if welcome.contains(&what) {
                Ok(())
            } else {
                Err("external_joiner")
            };
            assert_eq!(
                outcome(&judge_as_service(GroupLimits::default(), &public, &message)),
                expected,
                "{join:?}: {what}"
            );
        }
    }
}
