//! Requests and answers.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::strangers::{encoded, enter};
use super::*;

#[tokio::test]
async fn answers_find_their_requests_whatever_the_order() {
    let secured = security(Some("secret"), None).await;
    let house = House::open(&secured).await;
    let client = house.client(&secured).await;
    let wait = wait();
    let mut first = Box::pin(client.request(&wait, in_time()));
    assert!(futures::poll!(&mut first).is_pending());
    let texts: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    let requests: Vec<_> = texts.iter().map(|text| echo(text)).collect();
    let answers = futures::future::join_all(requests.iter().map(|request| client.request(request, in_time()))).await;
    for (text, answer) in texts.iter().zip(answers) {
        assert_eq!(answer.unwrap(), echoed(text));
    }
    assert!(futures::poll!(&mut first).is_pending());
    house.door.open.add_permits(1);
    assert_eq!(first.await.unwrap(), Response::Done);
}

#[tokio::test]
async fn more_requests_than_are_answered_at_once_wait_for_their_turn() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let client = house.client(&plain).await;
    let wait = wait();
    let all = futures::future::join_all((0..200).map(|_| client.request(&wait, in_time())));
    let open = async {
        house.door.waiting.acquire_many(64).await.unwrap().forget();
        house.serves(&plain).await;
        assert_eq!(house.door.waiting.available_permits(), 0, "more are answered at once");
        house.door.open.add_permits(200);
    };
    let (answers, ()) = tokio::join!(all, open);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == Response::Done));
}

#[tokio::test]
async fn a_request_that_was_given_up_leaves_the_connection_usable() {
    let secured = security(Some("secret"), None).await;
    let house = House::open(&secured).await;
    let client = house.client(&secured).await;
    // Before it was sent, and while it was answered.
    let wait = wait();
    drop(client.request(&wait, in_time()));
    for _ in 0..10 {
        let mut request = Box::pin(client.request(&wait, in_time()));
        assert!(futures::poll!(&mut request).is_pending());
        drop(request);
        let arrived = async { house.door.waiting.acquire().await.unwrap().forget() };
        tokio::select! {
            answer = client.request(&wait, in_time()) => panic!("answered: {answer:?}"),
            () = arrived => {}
        }
    }
    // The late answers are nobody's.
    house.door.open.add_permits(100);
    assert_eq!(client.request(&echo("mine"), in_time()).await.unwrap(), echoed("mine"));
    assert!(client.nothing_is_waited_for());
}

#[tokio::test]
async fn a_request_without_an_answer_ends_with_its_deadline_and_may_have_been_done() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let client = house.client(&plain).await;
    let error = client.request(&wait(), Deadline::after(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, RequestError::Unanswered(TransportError::Deadline(_))), "{error:?}");
    assert_eq!(client.request(&echo("next"), in_time()).await.unwrap(), echoed("next"));
}

#[tokio::test]
async fn whoever_waits_learns_at_once_that_the_other_side_is_gone() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let client = house.client(&plain).await;
    let wait = wait();
    let go = async {
        house.door.waiting.acquire().await.unwrap().forget();
        house.listener.stop().await;
    };
    let (answer, ()) = tokio::join!(client.request(&wait, in_time()), go);
    assert!(matches!(answer, Err(RequestError::Unanswered(TransportError::Closed))), "{answer:?}");
    eventually("the end of the connection", || client.is_closed()).await;
    let error = client.request(&wait, in_time()).await.unwrap_err();
    assert!(matches!(error, RequestError::NotSent(TransportError::Closed)), "{error:?}");
}

#[tokio::test]
async fn the_work_for_a_client_that_left_is_given_up() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let client = house.client(&plain).await;
    let wait = wait();
    let arrived = async { house.door.waiting.acquire().await.unwrap().forget() };
    tokio::select! {
        answer = client.request(&wait, in_time()) => panic!("answered: {answer:?}"),
        () = arrived => {}
    }
    drop(client);
    eventually("the end of the work", || Arc::strong_count(&house.door.working) == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_delays_nobody_else() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut slow = enter(&house).await;
    for number in 0..64_u64 {
        slow.write_all(&encoded(&(number, Request::Status))).await.unwrap();
    }
    slow.readable().await.unwrap();
    house.serves(&plain).await;
    assert!(house.door.waiting.available_permits() < 64, "answers pile up");
}

#[tokio::test]
async fn what_is_too_large_to_be_sent_is_refused_in_words() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let client = house.client(&plain).await;
    let error = client.request(&echo(&"x".repeat(65 << 20)), in_time()).await.unwrap_err();
    assert!(matches!(error, RequestError::NotSent(TransportError::TooLarge { .. })), "{error:?}");
    let answer = client.request(&Request::Discover, in_time()).await.unwrap();
    assert!(matches!(&answer, Response::Refused(why) if why.contains("too large")));
    assert_eq!(client.request(&echo("small"), in_time()).await.unwrap(), echoed("small"));
}

#[tokio::test]
async fn connecting_to_nobody_fails_and_to_somebody_silent_ends_with_the_deadline() {
    let plain = plain().await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = Address::from(silent.local_addr().unwrap());
    let error = ClientConnection::open(&address, &plain, Deadline::after(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, TransportError::Deadline(_)), "{error}");
    drop(silent);
    let error = ClientConnection::open(&address, &plain, in_time()).await.unwrap_err();
    assert!(matches!(error, TransportError::Connect { .. }), "{error}");
}
