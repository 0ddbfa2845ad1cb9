/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* What goes back when, with short settings; none so short that a busy machine sleeps it away. */

static bool stops_consuming(struct reader *reader)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS);
	struct mqfs_consumer_state seen;

	do {
		sleep_ms(20);
		mqfs_consumer_state_of(window(reader), &seen);
	} while (seen.consuming && mqfs_clock_monotonic_ms() < deadline_ms);
	return !seen.consuming;
}

static bool leaves(struct reader *reader, struct mqfs_delivery *delivery, enum mqfs_delivery_state state)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS);

	while (mqfs_consumer_state(window(reader), delivery) == state && mqfs_clock_monotonic_ms() < deadline_ms)
		sleep_ms(20);
	return mqfs_consumer_state(window(reader), delivery) != state;
}

static void what_nobody_looks_at_goes_back(void **state)
{
	const char *queue = make_queue();
	struct mqfs_consumer_state seen;
	struct reader *reader;

	(void)state;
	settings.idle_release_ms = 4000;
	reader = reader_new(backend, queue);
	publish(queue, "one");
	publish(queue, "two");
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2));
	sleep_ms(2200);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2)); /* a look begins the time anew */
	sleep_ms(2200);
	mqfs_consumer_state_of(window(reader), &seen);
	assert_int_equal(seen.pending, 2);
	assert_true(ready_becomes(queue, 2));
	mqfs_consumer_state_of(window(reader), &seen);
	assert_false(seen.consuming);
	assert_int_equal(seen.pending, 0);
	assert_int_equal(depths(queue).consumers, 0);

	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2));
	mqfs_consumer_state_of(window(reader), &seen);
	assert_true(seen.consuming);
}

static void a_claim_keeps_consuming(void **state)
{
	const char *queue = make_queue();
	struct mqfs_consumer_state seen;
	struct mqfs_delivery *delivery;
	struct reader *reader;

	(void)state;
	settings.idle_release_ms = 1000;
	reader = reader_new(backend, queue);
	publish(queue, "held");
	delivery = claim(reader);
	sleep_ms(2500);
	mqfs_consumer_state_of(window(reader), &seen);
	assert_true(seen.consuming);
	assert_int_equal(seen.claimed, 1);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), 0);
	assert_true(stops_consuming(reader));
}

static void an_untaken_message_goes_back(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *first, *second;
	struct reader *reader;

	(void)state;
	settings.pending_timeout_ms = 2000;
	reader = reader_new(backend, queue);
	publish(queue, "untaken");
	first = window_first(reader, MQFS_DELIVERY_PENDING);
	sleep_ms(700);
	assert_int_equal(mqfs_consumer_state(window(reader), first), MQFS_DELIVERY_PENDING);
	assert_true(leaves(reader, first, MQFS_DELIVERY_PENDING));
	second = window_first(reader, MQFS_DELIVERY_PENDING); /* it comes again, uncounted */
	assert_true(has_body(second, "untaken"));
	assert_true(strcmp(first->name, second->name) < 0);
	assert_int_equal(history_of(second).attempts, 0);
}

static void a_claim_expires(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;
	struct mqfs_history history;
	struct reader *reader;

	(void)state;
	settings.claim_timeout_ms = 2000;
	settings.backoff_base_ms = 500;
	reader = reader_new(backend, queue);
	publish(queue, "slow");
	delivery = claim(reader);
	sleep_ms(700);
	assert_int_equal(mqfs_consumer_state(window(reader), delivery), MQFS_DELIVERY_CLAIMED);
	delivery = claim(reader);
	assert_true(has_body(delivery, "slow"));
	history = history_of(delivery);
	assert_int_equal(history.attempts, 1);
	assert_string_equal(history.error, "claim expired");
	assert_true(comes_to(&counted(reader)->expired_claims, 1));
	assert_true(comes_to(&counted(reader)->retried, 1));
}

static void a_touch_extends_a_claim(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;
	struct reader *reader;

	(void)state;
	settings.claim_timeout_ms = 3000;
	reader = reader_new(backend, queue);
	publish(queue, "slow");
	delivery = claim(reader);
	for (int i = 0; i < 3; i++) {
		sleep_ms(1200);
		assert_int_equal(mqfs_consumer_extend(window(reader), delivery), 0);
	}
	assert_int_equal(mqfs_consumer_state(window(reader), delivery), MQFS_DELIVERY_CLAIMED);
	assert_true(comes_to(&counted(reader)->expired_claims, 0));
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), 0);
	assert_int_equal(mqfs_consumer_extend(window(reader), delivery), -ENOENT);
}

static void consumer_timeout_ends_claims(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;
	int64_t left_ms, far_ms = 50 * 60000;
	struct reader *reader;

	(void)state;
	settings.claim_timeout_ms = far_ms;
	settings.consumer_timeout_ms = 10 * 60000;
	reader = reader_new(backend, queue);
	publish(queue, "slow");
	delivery = claim(reader);
	left_ms = delivery->expires_ms - mqfs_clock_monotonic_ms();
	if (is_amqp()) {
		assert_true(left_ms <= 9 * 60000 && left_ms > 8 * 60000);
		assert_int_equal(mqfs_consumer_extend(window(reader), delivery), -ETIME);
	} else {
		assert_true(left_ms > far_ms - 60000);
		assert_int_equal(mqfs_consumer_extend(window(reader), delivery), 0);
	}
}

static int64_t cpu_ms(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return used.tv_sec * 1000 + used.tv_nsec / 1000000;
}

/* Fewer than the window takes, held, and then nothing more to do. */
static void waiting_costs_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	int64_t before_ms;

	(void)state;
	publish(queue, "one");
	publish(queue, "two");
	claim(reader);
	/* A busy machine makes some rounds dear, what spins all of them. */
	for (int i = 0; i < 8; i++) {
		sleep_ms(200);
		before_ms = cpu_ms();
		sleep_ms(500);
		if (cpu_ms() - before_ms < 75)
			return;
	}
	fail_msg("it is never quiet");
}

int test_clocks(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(what_nobody_looks_at_goes_back), contract_test(a_claim_keeps_consuming),
	    contract_test(an_untaken_message_goes_back),   contract_test(a_claim_expires),
	    contract_test(a_touch_extends_a_claim),        contract_test(consumer_timeout_ends_claims),
	    contract_test(waiting_costs_nothing),
	};

	return cmocka_run_group_tests_name("clocks", tests, NULL, NULL);
}
