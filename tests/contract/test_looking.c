/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* Looking at retry/ and dead/, and what may be done with what is there. */

static void bury(struct reader *reader, const char *queue, const char *body)
{
	publish(queue, body);
	assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_BURY), 0);
}

static void fail_one(struct reader *reader, const char *queue, const char *body)
{
	publish(queue, body);
	assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_RETRY), 0);
}

static void nothing_is_listed_of_nothing(void **state)
{
	struct reader *reader = reader_new(backend, make_queue()), *nowhere = reader_new(backend, make_name());

	(void)state;
	assert_int_equal(look_count(look_at(reader, MQFS_PLACE_DEAD)), 0);
	assert_int_equal(look_count(look_at(reader, MQFS_PLACE_RETRY)), 0);
	assert_int_equal(look_count(look_at(nowhere, MQFS_PLACE_DEAD)), 0);
}

static void many_looks_lose_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	mqfs_name_t name;

	(void)state;
	for (int i = 0; i < 5; i++)
		bury(reader, queue, i ? "other" : "first");
	assert_true(look_shows(look, 5));
	snprintf(name, sizeof(name), "%s", look_find_body(look, "first")->name);
	for (int i = 0; i < 100; i++)
		assert_int_equal(look_count(look), 5);
	/* Look after look, each from the start and put back at its end. */
	for (int i = 0; i < 30; i++) {
		struct mqfs_look *fresh = mqfs_look_new(backend, queue, MQFS_PLACE_DEAD, &settings, counted(reader));
		size_t seen = look_count(fresh);

		mqfs_look_free(fresh);
		assert_true(seen <= 5);
		assert_true(is_amqp() || seen == 5);
	}
	assert_true(look_shows(look, 5));
	assert_string_equal(look_find_body(look, "first")->name, name);
	reader_free(reader);
	assert_true(dead_becomes(queue, 5));
}

static void two_mounts_look(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue), *other = reader_new(open_another(), queue);

	(void)state;
	bury(reader, queue, "seen by both in turn");
	assert_true(look_shows(look_at(reader, MQFS_PLACE_DEAD), 1));
	assert_true(look_shows(look_at(other, MQFS_PLACE_DEAD), 1));
	assert_int_equal(look_settle(look_at(other, MQFS_PLACE_DEAD),
	                             look_find_body(look_at(other, MQFS_PLACE_DEAD), "seen by both in turn"),
	                             MQFS_LOOK_DISCARD, NULL, -1),
	                 0);
	assert_true(look_shows(look_at(reader, MQFS_PLACE_DEAD), 0));
}

static void what_is_new_is_listed(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);

	(void)state;
	bury(reader, queue, "one");
	assert_true(look_shows(look, 1));
	bury(reader, queue, "two");
	assert_true(look_shows(look, 2));
}

static void a_look_is_bounded(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	settings.look_max = 3;
	reader = reader_new(backend, queue);
	for (int i = 0; i < 5; i++)
		bury(reader, queue, "dead");
	assert_true(dead_becomes(queue, 5));
	assert_true(look_shows(look_at(reader, MQFS_PLACE_DEAD), 3));
}

static void a_look_delays_no_retry(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	int64_t failed_ms, waited_ms;
	struct mqfs_delivery *again = NULL;

	(void)state;
	failed_ms = mqfs_clock_monotonic_ms();
	fail_one(reader, queue, "watched");
	while (!again && mqfs_clock_monotonic_ms() < failed_ms + ENOUGH_MS) {
		look_count(look_at(reader, MQFS_PLACE_RETRY));
		again = claim_within(reader, 50);
	}
	waited_ms = mqfs_clock_monotonic_ms() - failed_ms;
	assert_non_null(again);
	if (waited_ms > 4000)
		fail_msg("it came back after %lld ms", (long long)waited_ms);
	assert_true(look_shows(look_at(reader, MQFS_PLACE_RETRY), 0));
}

static void retry_lists_the_waiting(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *waiting;
	struct reader *reader;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	fail_one(reader, queue, "waits");
	waiting = look_find_body(look_at(reader, MQFS_PLACE_RETRY), "waits");
	assert_int_equal(waiting->place, MQFS_PLACE_RETRY);
	assert_int_equal(history_of(waiting).attempts, 1);
	assert_true(history_of(waiting).next_at_us > mqfs_clock_realtime_us() + 20000000);
}

static void discard_removes(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	struct mqfs_delivery *dead;

	(void)state;
	bury(reader, queue, "rubbish");
	dead = look_find_body(look, "rubbish");
	assert_int_equal(look_settle(look, dead, MQFS_LOOK_DISCARD, NULL, -1), 0);
	assert_null(mqfs_look_find(look, dead->name));
	assert_int_equal(look_settle(look, dead, MQFS_LOOK_DISCARD, NULL, -1), -ENOENT);
	assert_true(dead_becomes(queue, 0));
}

static void replay_is_afresh(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	struct mqfs_delivery *again;

	(void)state;
	bury(reader, queue, "once more");
	assert_int_equal(look_settle(look, look_find_body(look, "once more"), MQFS_LOOK_REPLAY, NULL, -1), 0);
	again = claim(reader);
	assert_true(has_body(again, "once more"));
	assert_int_equal(history_of(again).attempts, 0);
	assert_null(history_of(again).error);
	assert_null(history_of(again).dead_reason);
	assert_true(dead_becomes(queue, 0));
}

static void replay_elsewhere(void **state)
{
	const char *queue = make_queue(), *target = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	struct mqfs_delivery *dead, *moved;

	(void)state;
	bury(reader, queue, "elsewhere");
	dead = look_find_body(look, "elsewhere");
	assert_int_equal(look_settle(look, dead, MQFS_LOOK_REPLAY, make_name(), -1), -ENOENT);
	dead = look_find_body(look, "elsewhere"); /* a failure leaves it there */
	assert_int_equal(look_settle(look, dead, MQFS_LOOK_REPLAY, target, 5), 0);
	moved = claim(reader_new(backend, target));
	assert_true(has_body(moved, "elsewhere"));
	assert_int_equal(moved->message->priority, 5);
	assert_true(dead_becomes(queue, 0));
}

static void all_are_replayed(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	char body[32];

	(void)state;
	for (int i = 0; i < 20; i++) {
		snprintf(body, sizeof(body), "replayed %d", i);
		bury(reader, queue, body);
	}
	assert_true(look_shows(look, 20));
	for (int i = 0; i < 20; i++) {
		snprintf(body, sizeof(body), "replayed %d", i);
		assert_int_equal(look_settle(look, look_find_body(look, body), MQFS_LOOK_REPLAY, NULL, -1), 0);
	}
	for (int i = 0; i < 20; i++)
		assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_ACK), 0);
	assert_true(ready_becomes(queue, 0));
	assert_true(dead_becomes(queue, 0));
}

static void grant_gives_one_attempt(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *again;
	struct mqfs_look *look;
	struct reader *reader;

	(void)state;
	settings.max_attempts = 1;
	settings.backoff_base_ms = 300;
	reader = reader_new(backend, queue);
	look = look_at(reader, MQFS_PLACE_DEAD);
	fail_one(reader, queue, "granted");
	assert_int_equal(look_settle(look, look_find_body(look, "granted"), MQFS_LOOK_GRANT, NULL, -1), 0);
	assert_true(dead_becomes(queue, 0));
	again = claim(reader);
	assert_true(has_body(again, "granted"));
	assert_int_equal(history_of(again).attempts, 1);
	assert_int_equal(history_of(again).max_attempts, 2);
	assert_null(history_of(again).dead_reason);
	assert_int_equal(mqfs_consumer_settle(window(reader), again, MQFS_SETTLE_RETRY), 0);
	assert_true(dead_becomes(queue, 1));
}

static void retry_now_is_now(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *again;
	struct mqfs_look *look;
	struct reader *reader;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	look = look_at(reader, MQFS_PLACE_RETRY);
	fail_one(reader, queue, "now");
	assert_int_equal(look_settle(look, look_find_body(look, "now"), MQFS_LOOK_RETRY_NOW, NULL, -1), 0);
	again = claim_within(reader, 3000);
	assert_non_null(again);
	assert_int_equal(history_of(again).attempts, 1); /* the history stays */
	assert_true(retry_becomes(queue, 0));
}

static void a_waiting_one_is_buried(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *dead;
	struct reader *reader;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	fail_one(reader, queue, "given up");
	assert_int_equal(look_settle(look_at(reader, MQFS_PLACE_RETRY),
	                             look_find_body(look_at(reader, MQFS_PLACE_RETRY), "given up"), MQFS_LOOK_BURY,
	                             NULL, -1),
	                 0);
	assert_true(retry_becomes(queue, 0));
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "given up");
	assert_int_equal(history_of(dead).attempts, 1);
	assert_non_null(history_of(dead).dead_reason);
}

static void deletes_not_what_is_looked_at(void **state, enum mqfs_place place)
{
	const char *queue = make_queue();
	struct reader *reader, *other;
	int busy = is_amqp() ? -EBUSY : -ENOTEMPTY;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	other = reader_new(open_another(), queue);
	if (place == MQFS_PLACE_DEAD)
		bury(reader, queue, "held");
	else
		fail_one(reader, queue, "held");
	assert_true(look_shows(look_at(other, place), 1));
	assert_int_equal(window_stop(reader), 0);
	assert_int_equal(delete_queue(queue), busy);
	reader_free(other);
	assert_true(place == MQFS_PLACE_DEAD ? dead_becomes(queue, 1) : retry_becomes(queue, 1));
	assert_int_equal(delete_queue(queue), -ENOTEMPTY);
}

static void what_is_looked_at_in_dead_stays(void **state)
{
	deletes_not_what_is_looked_at(state, MQFS_PLACE_DEAD);
}

static void what_is_looked_at_in_retry_stays(void **state)
{
	deletes_not_what_is_looked_at(state, MQFS_PLACE_RETRY);
}

struct finish {
	bool done;
	int result;
	unsigned place; /* in the order of all */
};

static unsigned finished;

static void note_finish(void *arg, int result, const char *reason)
{
	struct finish *finish = arg;

	(void)reason;
	shared_lock();
	*finish = (struct finish){.done = true, .result = result, .place = ++finished};
	shared_changed();
	shared_unlock();
}

/* While it waits for the look to end, others are served. */
static void a_busy_deletion_holds_up_nobody(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue), *other = reader_new(open_another(), queue);
	struct finish deletion = {0}, finding = {0};

	(void)state;
	bury(reader, queue, "held");
	assert_true(look_shows(look_at(other, MQFS_PLACE_DEAD), 1));
	assert_int_equal(window_stop(reader), 0);
	mqfs_queue_delete(backend, queue, false, in_ms(ENOUGH_MS), note_finish, &deletion);
	mqfs_queue_find(backend, queue, in_ms(ENOUGH_MS), note_finish, &finding);
	assert_true(WAIT_UNTIL(deletion.done && finding.done, ENOUGH_MS));
	assert_int_equal(finding.result, 0);
	assert_int_equal(deletion.result, is_amqp() ? -EBUSY : -ENOTEMPTY);
	assert_true(!is_amqp() || finding.place < deletion.place);
}

/* What was found before its hold ended can be settled all the same. */
static void an_old_find_is_settled(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	struct mqfs_delivery *old;

	(void)state;
	bury(reader, queue, "old");
	bury(reader, queue, "other");
	assert_true(look_shows(look, 2));
	old = look_find_body(look, "old");
	sleep_ms(5500);
	assert_int_equal(look_settle(look, old, MQFS_LOOK_DISCARD, NULL, -1), 0);
	assert_int_equal(look_settle(look, old, MQFS_LOOK_DISCARD, NULL, -1), -ENOENT);
	assert_true(look_shows(look, 1));
	reader_free(reader);
	assert_true(dead_becomes(queue, 1));
}

static void remember(struct mqfs_delivery *delivery, void *arg)
{
	strcat(strcat(arg, delivery->name), "\n");
}

static void twins_have_names_of_their_own(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_look *look = look_at(reader, MQFS_PLACE_DEAD);
	char names[4 * sizeof(mqfs_name_t)] = "";

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message_with("twin", -1, "twin-id")), 0);
		assert_int_equal(mqfs_consumer_settle(window(reader), claim(reader), MQFS_SETTLE_BURY), 0);
	}
	assert_true(look_shows(look, 3));
	mqfs_look_list(look, remember, names);
	assert_non_null(strstr(names, "twin-id\n"));
	assert_non_null(strstr(names, "twin-id~2\n"));
	assert_non_null(strstr(names, "twin-id~3\n"));
}

int test_looking(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(nothing_is_listed_of_nothing),
	    contract_test(many_looks_lose_nothing),
	    contract_test(two_mounts_look),
	    contract_test(what_is_new_is_listed),
	    contract_test(a_look_is_bounded),
	    contract_test(a_look_delays_no_retry),
	    contract_test(retry_lists_the_waiting),
	    contract_test(discard_removes),
	    contract_test(replay_is_afresh),
	    contract_test(replay_elsewhere),
	    contract_test(all_are_replayed),
	    contract_test(grant_gives_one_attempt),
	    contract_test(retry_now_is_now),
	    contract_test(a_waiting_one_is_buried),
	    contract_test(what_is_looked_at_in_dead_stays),
	    contract_test(what_is_looked_at_in_retry_stays),
	    contract_test(a_busy_deletion_holds_up_nobody),
	    contract_test(an_old_find_is_settled),
	    contract_test(twins_have_names_of_their_own),
	};

	return cmocka_run_group_tests_name("looking", tests, NULL, NULL);
}
