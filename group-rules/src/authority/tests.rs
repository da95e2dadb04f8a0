use super::*;

fn user(name: &str) -> UserId {
    format!("{name}@a.example").parse().unwrap()
}

/// A user for each role, and one that is not in the group.
fn listed() -> Roles {
    Roles::owned_by(user("owner"))
        .with(user("moderator"), Role::Moderator)
        .with(user("reader"), Role::Reader)
}

fn authority(roles: &Roles, names: &[&str]) -> Authority {
    let users: Vec<_> = names.iter().map(|name| user(name)).collect();
    Authority::new(roles.clone(), users.iter())
}

const ALL: [&str; 4] = ["reader", "member", "moderator", "owner"];

#[test]
fn every_act_of_every_role_under_every_policy() {
    for act in Act::ALL {
        for (required, least) in Role::ALL.into_iter().enumerate() {
            // Whatever the policy says of the other acts.
            for others in Role::ALL {
                let policy = Act::ALL
                    .into_iter()
                    .fold(Policy::default(), |policy, other| policy.with(other, others));
                let roles = listed().with_policy(policy.with(act, least));
                let authority = authority(&roles, &ALL);
                for (rank, name) in ALL.into_iter().enumerate() {
                    let expected = if rank >= required { Ok(()) } else { Err(act.rule()) };
                    assert_eq!(
                        authority.may(&user(name), act),
                        expected,
                        "{act:?} by {name}, least {least}"
                    );
                }
            }
        }
    }
}

#[test]
fn by_default_members_send_moderators_gather_and_owners_rule() {
    let authority = authority(&listed(), &ALL);
    let may = |name: &str| Act::ALL.map(|act| authority.may(&user(name), act).is_ok());
    // Add, remove, rename, change roles, send.
    assert_eq!(may("reader"), [false, false, false, false, false]);
    assert_eq!(may("member"), [false, false, false, false, true]);
    assert_eq!(may("moderator"), [true, true, true, false, true]);
    assert_eq!(may("owner"), [true; 5]);
}

#[test]
fn where_no_owner_is_left_the_highest_that_is_there_counts_as_owner() {
    // Every set of roles that can be in a group.
    for set in 1..16_usize {
        let there: Vec<_> = (0..4).filter(|rank| set & (1 << rank) != 0).collect();
        let names: Vec<_> = there.iter().map(|&rank| ALL[rank]).collect();
        let authority = authority(&listed(), &names);
        let highest = there.iter().max().unwrap();
        for rank in &there {
            let expected = if rank == highest {
                Role::Owner
            } else {
                Role::ALL[*rank]
            };
            assert_eq!(authority.role(&user(ALL[*rank])), expected, "{names:?}");
        }
        let rulers = names.iter().filter(|name| {
            Act::ALL
                .iter()
                .all(|act| authority.may(&user(name), *act).is_ok())
        });
        assert_eq!(rulers.count(), 1, "never nobody: {names:?}");
    }
}

#[test]
fn one_adds_by_role_but_nobody_above_oneself_and_ones_own_devices_always() {
    let roles = listed().with(user("absent-owner"), Role::Owner);
    let authority = authority(&roles, &ALL);
    let roster = Roster::default();
    let may = |by: &str, whom: &str| {
        authority
            .may_add(&user(by), &user(whom), &roster)
            .map_err(|rule| rule.0)
    };
    assert_eq!(may("moderator", "newcomer"), Ok(()));
    assert_eq!(may("moderator", "absent-owner"), Err("role_above"));
    assert_eq!(may("owner", "absent-owner"), Ok(()));
    for by in ["reader", "member"] {
        assert_eq!(may(by, "newcomer"), Err("role_add"));
        assert_eq!(may(by, by), Ok(()), "one's own device");
    }
    // A newcomer is nothing special, even where readers may add.
    let open = roles.with_policy(Policy::default().with(Act::Add, Role::Reader));
    let authority = super::tests::authority(&open, &ALL);
    assert_eq!(
        authority.may_add(&user("reader"), &user("newcomer"), &roster),
        Ok(())
    );
}

#[test]
fn one_removes_by_role_but_nobody_above_oneself_and_ones_own_devices_always() {
    for (required, least) in Role::ALL.into_iter().enumerate() {
        let roles = listed().with_policy(Policy::default().with(Act::Remove, least));
        let authority = authority(&roles, &ALL);
        for (rank, by) in ALL.into_iter().enumerate() {
            for (target, whom) in ALL.into_iter().enumerate() {
                let expected = if by == whom {
                    Ok(())
                } else if rank < required {
                    Err("role_remove")
                } else if target > rank {
                    Err("role_above")
                } else {
                    Ok(())
                };
                let found = authority
                    .may_remove(&user(by), &user(whom))
                    .map_err(|rule| rule.0);
                assert_eq!(found, expected, "{by} removes {whom}, least {least}");
            }
        }
    }
}

/// What comes of it if `by` makes `whom` something else, everybody being there.
fn change(roles: &Roles, by: &str, whom: &str, role: Role) -> Result<Option<RolesChange>, &'static str> {
    let there = ALL.map(user);
    Authority::new(roles.clone(), there.iter())
        .judge_change(&user(by), &roles.clone().with(user(whom), role), there.iter())
        .map_err(|rule| rule.0)
}

#[test]
fn every_change_of_every_role_by_every_role_under_every_policy() {
    for (required, least) in Role::ALL.into_iter().enumerate() {
        let roles = listed().with_policy(Policy::default().with(Act::ChangeRoles, least));
        for (rank, by) in ALL.into_iter().enumerate() {
            for (target, whom) in ALL.into_iter().enumerate() {
                for (new, role) in Role::ALL.into_iter().enumerate() {
                    let expected = if new == target {
                        Ok(None)
                    } else if rank < required {
                        Err("role_change")
                    } else if target > rank || new > rank {
                        Err("role_above")
                    } else if whom == "owner" {
                        Err("last_owner")
                    } else {
                        Ok(Some(RolesChange {
                            users: vec![(user(whom), role)],
                            policy: None,
                        }))
                    };
                    let found = change(&roles, by, whom, role);
                    assert_eq!(found, expected, "{by} makes {whom} {role}, least {least}");
                }
            }
        }
    }
}

#[test]
fn an_owner_may_go_down_where_another_one_stays() {
    let roles = listed().with(user("member"), Role::Owner);
    assert!(change(&roles, "owner", "owner", Role::Reader).is_ok());
    // But not where that one leaves with the same commit.
    let there = [user("owner"), user("member")];
    let authority = Authority::new(roles.clone(), there.iter());
    let down = roles.with(user("owner"), Role::Member);
    let stays = [user("owner")];
    let found = authority.judge_change(&user("owner"), &down, stays.iter());
    assert_eq!(found, Err(RuleViolation("last_owner")));
}

#[test]
fn an_owner_that_leaves_does_not_stand_in_the_way_of_a_change() {
    let policy = Policy::default().with(Act::ChangeRoles, Role::Moderator);
    let roles = listed().with_policy(policy);
    let there = ALL.map(user);
    let authority = Authority::new(roles.clone(), there.iter());
    let stay = ["reader", "member", "moderator"].map(user);
    let new = roles.with(user("reader"), Role::Member);
    assert!(
        authority
            .judge_change(&user("moderator"), &new, stay.iter())
            .is_ok()
    );
}

#[test]
fn who_counts_as_owner_may_make_owners() {
    let stay = ["reader", "member", "moderator"].map(user);
    let authority = Authority::new(listed(), stay.iter());
    let new = listed().with(user("member"), Role::Owner);
    let changed = authority
        .judge_change(&user("moderator"), &new, stay.iter())
        .unwrap()
        .unwrap();
    assert_eq!(changed.users, [(user("member"), Role::Owner)]);
    // With an owner there the succession is over.
    let authority = Authority::new(new, stay.iter());
    assert_eq!(authority.role(&user("moderator")), Role::Moderator);
    assert_eq!(authority.role(&user("member")), Role::Owner);
}

#[test]
fn a_change_of_the_policy_takes_the_same_role() {
    let new = listed().with_policy(Policy::default().with(Act::Send, Role::Moderator));
    let there = ALL.map(user);
    let authority = Authority::new(listed(), there.iter());
    for by in ["reader", "member", "moderator"] {
        let found = authority.judge_change(&user(by), &new, there.iter());
        assert_eq!(found, Err(RuleViolation("role_change")));
    }
    let found = authority
        .judge_change(&user("owner"), &new, there.iter())
        .unwrap()
        .unwrap();
    assert_eq!((found.users, found.policy), (Vec::new(), Some(*new.policy())));
}

#[test]
fn nothing_but_the_roles_may_change_in_the_context() {
    let other = |byte: u8| {
        Extension::ExternalSenders(vec![openmls::prelude::ExternalSender::new(
            vec![byte; 32].into(),
            crate::credential(&[vec![byte]]),
        )])
    };
    let of = |extensions: Vec<Extension>| Extensions::<GroupContext>::from_vec(extensions).unwrap();
    let (old, new) = (listed(), listed().with(user("reader"), Role::Member));
    let before = of(vec![other(1), old.to_extension()]);
    let judge = |after: Vec<Extension>| roles_of_change(&before, &of(after));
    assert_eq!(judge(vec![other(1), new.to_extension()]), Ok(new.clone()));
    assert_eq!(judge(vec![other(1), old.to_extension()]), Ok(old.clone()));
    let differs = Err(RuleViolation("context_extensions"));
    assert_eq!(judge(vec![other(2), new.to_extension()]), differs);
    assert_eq!(judge(vec![new.to_extension(), other(1)]), differs);
    assert_eq!(judge(vec![new.to_extension()]), differs);
    assert_eq!(judge(vec![other(1)]), differs);
    assert_eq!(judge(Vec::new()), differs);
    let more = openmls::prelude::UnknownExtension(vec![1]);
    let more = Extension::Unknown(0xF7A2, more);
    assert_eq!(judge(vec![other(1), new.to_extension(), more]), differs);
    let broken = openmls::prelude::UnknownExtension(vec![1]);
    let broken = Extension::Unknown(crate::ROLES_EXTENSION, broken);
    assert_eq!(judge(vec![other(1), broken]), Err(RuleViolation("roles")));
}
