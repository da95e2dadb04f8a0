//! What keeps the program from starting on PostgreSQL: one line, and a failure.

use valise_local_stack::Port;

use crate::replica::{Deployment, command};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_database_is_said_in_one_line() {
    let deployment = Deployment::without_schema().await;
    let line = async |database: &str| {
        let ended = deployment.once(database, &[]).await;
        assert!(!ended.status.success(), "{ended:?}");
        let errors = String::from_utf8(ended.stderr).unwrap();
        let own: Vec<_> = errors
            .lines()
            .filter_map(|line| line.strip_prefix("valise-key-package-directory: "))
            .collect();
        let [line] = own[..] else { panic!("{errors}") };
        assert!(!errors.contains("hush"), "{errors}");
        assert!(line.contains("database"), "{line}");
        line.to_owned()
    };
    let place = format!("127.0.0.1:{}", deployment.postgres.port());
    let free = Port::free();

    let none = format!("postgres://valise:hush@127.0.0.1:{}/directory", free.number());
    assert!(line(&none).await.contains("cannot be reached"));
    let nobody = format!("postgres://nobody:hush@{place}/directory");
    assert!(line(&nobody).await.contains("refuses the connection"));
    let elsewhere = format!("postgres://valise:hush@{place}/elsewhere");
    assert!(line(&elsewhere).await.contains("refuses the connection"));
    let no_url = format!("mysql://valise:hush@{place}/directory");
    assert!(line(&no_url).await.contains("neither the path of a file nor"));
    assert!(line(&deployment.database).await.contains("run it with `migrate`"));

    let migrated = deployment.once(&deployment.database, &["migrate"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    let pool = sqlx::PgPool::connect(&deployment.database).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), true, '', 0)")
        .execute(&pool)
        .await
        .unwrap();
    assert!(
        line(&deployment.database)
            .await
            .contains("newer than this program")
    );
}

#[tokio::test]
async fn unknown_arguments_are_refused() {
    for arguments in [&["--help"][..], &["migrate", "a.toml", "b.toml"]] {
        let ended = command(arguments).output().await.unwrap();
        assert!(!ended.status.success());
        assert_eq!(
            String::from_utf8(ended.stderr).unwrap(),
            "valise-key-package-directory: usage: valise-key-package-directory [migrate] [CONFIGURATION]\n"
        );
    }
}
