/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* Failed attempts: what comes back, when, and with what history. */

static void fail_with(struct reader *reader, struct mqfs_delivery *delivery, const char *error,
                      enum mqfs_settlement how)
{
	if (error)
		assert_int_equal(mqfs_consumer_set_error(window(reader), delivery, error, strlen(error)), 0);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, how), 0);
}

static void a_retry_comes_back_in_time(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *first, *again;
	struct mqfs_history history;
	int64_t failed_ms, waited_ms;

	(void)state;
	publish_at(queue, "flaky", 6);
	first = claim(reader);
	failed_ms = mqfs_clock_monotonic_ms();
	fail_with(reader, first, "exit 1", MQFS_SETTLE_RETRY);
	again = claim(reader);
	waited_ms = mqfs_clock_monotonic_ms() - failed_ms;
	/* 1 s with jitter of a quarter; RabbitMQ's delay levels make that 0.5 to 2 times as long. */
	if (waited_ms < (is_amqp() ? 370 : 740) || waited_ms > (is_amqp() ? 3500 : 2000))
		fail_msg("it came back after %lld ms", (long long)waited_ms);
	history = history_of(again);
	assert_true(has_body(again, "flaky"));
	assert_int_equal(again->message->priority, 6);
	assert_int_equal(history.attempts, 1);
	assert_string_equal(history.error, "exit 1");
	assert_true(history.first_failed_us > 0 && history.last_failed_us >= history.first_failed_us);
	assert_non_null(history.host);
	assert_string_equal(first->message->message_id, again->message->message_id);
	assert_string_not_equal(mqfs_headers_string(&first->message->headers, "mqfs-copy"),
	                        mqfs_headers_string(&again->message->headers, "mqfs-copy"));
	assert_true(comes_to(&counted(reader)->retried, 1));
}

static void attempts_end_in_dead(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *dead;
	struct mqfs_history history;
	struct reader *reader;

	(void)state;
	settings.max_attempts = 2;
	settings.backoff_base_ms = 300;
	reader = reader_new(backend, queue);
	publish(queue, "hopeless");
	fail_with(reader, claim(reader), "first", MQFS_SETTLE_RETRY);
	fail_with(reader, claim(reader), "second", MQFS_SETTLE_RETRY);
	assert_true(dead_becomes(queue, 1));
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "hopeless");
	history = history_of(dead);
	assert_int_equal(history.attempts, 2);
	assert_string_equal(history.error, "second");
	assert_string_equal(history.dead_reason, "max-attempts");
	assert_true(history.dead_at_us > 0);
	assert_int_equal(dead->place, MQFS_PLACE_DEAD);
	assert_string_equal(dead->queue, queue);
	assert_true(comes_to(&counted(reader)->dead_lettered, 1));
}

static void bury_is_at_once(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *dead;

	(void)state;
	publish(queue, "bad input");
	fail_with(reader, claim(reader), "not JSON", MQFS_SETTLE_BURY);
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "bad input");
	assert_int_equal(history_of(dead).attempts, 1);
	assert_string_equal(history_of(dead).error, "not JSON");
	assert_string_equal(history_of(dead).dead_reason, "rejected");
	assert_true(ready_becomes(queue, 0));
}

static void an_untaken_message_can_be_buried(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);

	(void)state;
	publish(queue, "untaken");
	fail_with(reader, window_first(reader, MQFS_DELIVERY_PENDING), NULL, MQFS_SETTLE_BURY);
	assert_true(dead_becomes(queue, 1));
	assert_true(ready_becomes(queue, 0));
}

/* A copy that carried an expiration would vanish from dead/, one with CC would go elsewhere too. */
static void parked_properties_reach_dead(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_message *message = message_with("parked", -1, "parked-id");
	struct mqfs_value cc = {.kind = 'A'};
	struct mqfs_delivery *dead;

	(void)state;
	assert_int_equal(mqfs_message_set_string(&message->expiration, "1500"), 0);
	assert_int_equal(mqfs_headers_set_value(&message->headers, "mqfs-cc", &cc), 0);
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), 0);
	fail_with(reader, claim(reader), "no", MQFS_SETTLE_BURY);
	assert_true(dead_becomes(queue, 1));
	sleep_ms(1700);
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "parked");
	assert_null(dead->message->expiration);
	assert_string_equal(mqfs_headers_string(&dead->message->headers, "mqfs-expiration"), "1500");
}

static void a_release_counts_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *again;

	(void)state;
	publish(queue, "given back");
	fail_with(reader, claim(reader), NULL, MQFS_SETTLE_RELEASE);
	again = claim(reader);
	assert_int_equal(history_of(again).attempts, 0);
	assert_true(again->redelivered);
	assert_true(counted(reader)->redelivered >= 1);
}

static void an_abandoned_claim_counts_one(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;
	struct mqfs_delivery *again;
	int64_t begun_ms;

	(void)state;
	settings.max_attempts = 2;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, queue);
	publish(queue, "crashes");
	begun_ms = mqfs_clock_monotonic_ms();
	fail_with(reader, claim(reader), "half a sentence", MQFS_SETTLE_ABANDON);
	again = claim(reader); /* without the backoff */
	assert_true(mqfs_clock_monotonic_ms() - begun_ms < 15000);
	assert_int_equal(history_of(again).attempts, 1);
	assert_string_equal(history_of(again).error, "the reader was killed");
	fail_with(reader, again, NULL, MQFS_SETTLE_ABANDON);
	assert_true(dead_becomes(queue, 1));
	assert_true(ready_becomes(queue, 0));
}

static void a_reason_keeps_its_end(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery, *dead;
	char *text = malloc(10000);
	const char *kept;

	(void)state;
	publish(queue, "talkative");
	delivery = claim(reader);
	memset(text, 'a', 10000);
	memcpy(text + 10000 - 8, "the end.", 8);
	assert_int_equal(mqfs_consumer_set_error(window(reader), delivery, text, 10000), 0);
	free(text);
	fail_with(reader, delivery, NULL, MQFS_SETTLE_BURY);
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "talkative");
	kept = history_of(dead).error;
	assert_non_null(kept);
	assert_int_equal(strlen(kept), 4096);
	assert_string_equal(kept + 4096 - 8, "the end.");
}

static void retries_hold_up_nobody(void **state)
{
	const char *failing = make_queue(), *working = make_queue();
	struct reader *reader, *other;

	(void)state;
	settings.backoff_base_ms = 60000;
	reader = reader_new(backend, failing);
	other = reader_new(backend, working);
	for (int i = 0; i < 10; i++)
		publish(failing, "fails");
	for (int i = 0; i < 10; i++)
		fail_with(reader, claim(reader), "no", MQFS_SETTLE_RETRY);
	publish(working, "works");
	assert_true(has_body(claim_within(other, 2000), "works"));
	publish(failing, "another");
	assert_true(has_body(claim_within(reader, 2000), "another"));
	assert_true(retry_becomes(failing, 10));
}

static void mixed_delays_come_back_by_time(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	settings.backoff_base_ms = 4000;
	reader = reader_new(backend, queue);
	publish(queue, "long");
	fail_with(reader, claim(reader), NULL, MQFS_SETTLE_RETRY);
	settings.backoff_base_ms = 300;
	mqfs_consumer_configure(window(reader), &settings);
	publish(queue, "short");
	fail_with(reader, claim(reader), NULL, MQFS_SETTLE_RETRY);
	assert_true(has_body(claim(reader), "short"));
	assert_true(has_body(claim(reader), "long"));
}

int test_failing(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(a_retry_comes_back_in_time),
	    contract_test(attempts_end_in_dead),
	    contract_test(bury_is_at_once),
	    contract_test(an_untaken_message_can_be_buried),
	    contract_test(parked_properties_reach_dead),
	    contract_test(a_release_counts_nothing),
	    contract_test(an_abandoned_claim_counts_one),
	    contract_test(a_reason_keeps_its_end),
	    contract_test(retries_hold_up_nobody),
	    contract_test(mixed_delays_come_back_by_time),
	};

	return cmocka_run_group_tests_name("failing", tests, NULL, NULL);
}
