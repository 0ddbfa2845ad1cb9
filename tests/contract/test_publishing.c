/* SPDX-License-Identifier: MIT */
#include "contract.h"

static void a_confirmed_message_is_there(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;

	(void)state;
	publish(queue, "hello");
	delivery = intake_next(intake_new(backend, queue, 1));
	assert_true(has_body(delivery, "hello"));
	assert_string_equal(delivery->queue, queue);
	assert_int_equal(delivery->place, MQFS_PLACE_READY);
	assert_false(delivery->redelivered);
	assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
}

static void unroutable_is_enoent(void **state)
{
	(void)state;
	assert_int_equal(publish_message(make_name(), MQFS_PLACE_READY, 0, message_new("nowhere")), -ENOENT);
}

static void full_is_enospc(void **state)
{
	const char *queue;

	(void)state;
	settings.max_length = 2;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	queue = make_queue();
	publish(queue, "one");
	publish(queue, "two");
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message_new("three")), -ENOSPC);
	assert_true(ready_becomes(queue, 2));
	assert_int_equal(settle(intake_next(intake_new(backend, queue, 1)), MQFS_VERB_ACK), 0);
}

static void drop_head_drops_the_oldest(void **state)
{
	const char *queue;

	(void)state;
	settings.max_length = 2;
	settings.max_priority = 0;
	settings.overflow = MQFS_OVERFLOW_DROP_HEAD;
	queue = make_queue();
	publish(queue, "one");
	publish(queue, "two");
	publish(queue, "three");
	assert_true(has_body(intake_next(intake_new(backend, queue, 1)), "two"));
}

static void too_large_headers_are_einval(void **state)
{
	const char *queue = make_queue();
	struct mqfs_message *message = message_new("small");
	char *large = malloc(300000);

	(void)state;
	memset(large, 'x', 299999);
	large[299999] = '\0';
	assert_int_equal(mqfs_headers_set_string(&message->headers, "large", large), 0);
	free(large);
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), -EINVAL);
	publish(queue, "the next one passes");
	assert_true(ready_becomes(queue, 1));
}

static void priority_then_age(void **state)
{
	static const char *const order[] = {"nine", "seven, first", "seven, second", "one", "none"};
	const char *queue = make_queue();
	struct intake *intake;

	(void)state;
	publish_at(queue, "none", -1);
	publish_at(queue, "seven, first", 7);
	publish_at(queue, "one", 1);
	publish_at(queue, "seven, second", 7);
	publish_at(queue, "nine", 9);
	assert_true(ready_becomes(queue, 5));
	intake = intake_new(backend, queue, 10);
	for (size_t i = 0; i < sizeof(order) / sizeof(*order); i++) {
		struct mqfs_delivery *delivery = intake_next(intake);

		if (!has_body(delivery, order[i]))
			fail_msg("place %zu is not '%s' but '%.*s'", i, order[i], (int)delivery->message->body->bytes,
			         (const char *)delivery->message->body->data);
	}
}

#define MANY 2000

static void many_at_once(void **state)
{
	const char *queue = make_queue();
	struct call *calls[MANY];
	bool seen[MANY] = {false};
	struct intake *intake;
	char body[32];

	(void)state;
	for (int i = 0; i < MANY; i++) {
		snprintf(body, sizeof(body), "%d", i);
		calls[i] = call_new();
		mqfs_publish(backend, queue, MQFS_PLACE_READY, 0, message_new(body), in_ms(2 * ENOUGH_MS), call_done,
		             calls[i]);
	}
	for (int i = 0; i < MANY; i++)
		assert_int_equal(call_wait(calls[i]), 0);
	intake = intake_new(backend, queue, MANY);
	for (int i = 0; i < MANY; i++) {
		int number = number_of(intake_next(intake));

		assert_true(number >= 0 && number < MANY);
		assert_false(seen[number]);
		seen[number] = true;
	}
	assert_true(intake_stays(intake, MANY));
}

static void delayed_is_not_before(void **state)
{
	const char *queue = make_queue();
	struct intake *intake = intake_new(backend, queue, 1);
	int64_t published_ms = mqfs_clock_monotonic_ms(), waited_ms;

	(void)state;
	assert_int_equal(publish_message(queue, MQFS_PLACE_RETRY, 700, message_new("later")), 0);
	assert_true(has_body(intake_next(intake), "later"));
	waited_ms = mqfs_clock_monotonic_ms() - published_ms;
	if (waited_ms < 690 || waited_ms > 4000)
		fail_msg("it came after %lld ms, not after 700 and soon", (long long)waited_ms);
}

/* P3: not before, whatever its expiration. */
static void expiring_is_delayed_alike(void **state)
{
	const char *queue = make_queue();
	struct intake *intake = intake_new(backend, queue, 1);
	struct mqfs_message *message = message_new("later");
	int64_t published_ms = mqfs_clock_monotonic_ms();
	struct mqfs_delivery *delivery;

	(void)state;
	assert_int_equal(mqfs_message_set_string(&message->expiration, "1000"), 0);
	assert_int_equal(publish_message(queue, MQFS_PLACE_RETRY, 1800, message), 0);
	delivery = intake_next(intake);
	assert_true(mqfs_clock_monotonic_ms() - published_ms >= 1790);
	if (is_amqp())
		assert_string_equal(mqfs_headers_string(&delivery->message->headers, "mqfs-expiration"), "1000");
	else
		assert_string_equal(delivery->message->expiration, "1000");
}

static void expired_is_gone(void **state)
{
	const char *queue = make_queue();
	struct mqfs_message *message = message_new("short-lived");

	(void)state;
	assert_int_equal(mqfs_message_set_string(&message->expiration, "300"), 0);
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), 0);
	sleep_ms(400);
	assert_true(ready_becomes(queue, 0));
	assert_true(intake_stays(intake_new(backend, queue, 1), 0));
}

static void message_ttl_is_the_queues(void **state)
{
	const char *queue;

	(void)state;
	settings.message_ttl_ms = 300;
	queue = make_queue();
	publish(queue, "short-lived");
	sleep_ms(400);
	assert_true(ready_becomes(queue, 0));
	assert_true(intake_stays(intake_new(backend, queue, 1), 0));
}

static void the_brokers_dead_are_listed(void **state)
{
	struct mqfs_delivery *dead;
	struct reader *reader;
	const char *queue;

	(void)state;
	settings.message_ttl_ms = 200;
	settings.dead_letter = true;
	queue = make_queue();
	reader = reader_new(backend, queue);
	publish(queue, "expired");
	dead = look_find_body(look_at(reader, MQFS_PLACE_DEAD), "expired");
	assert_non_null(history_of(dead).dead_reason);
	assert_string_equal(history_of(dead).dead_reason, "expired");
	assert_int_equal(look_settle(look_at(reader, MQFS_PLACE_DEAD), dead, MQFS_LOOK_DISCARD, NULL, -1), 0);
}

int test_publishing(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(a_confirmed_message_is_there),
	    contract_test(unroutable_is_enoent),
	    contract_test(full_is_enospc),
	    contract_test(drop_head_drops_the_oldest),
	    contract_test(too_large_headers_are_einval),
	    contract_test(priority_then_age),
	    contract_test(many_at_once),
	    contract_test(delayed_is_not_before),
	    contract_test(expiring_is_delayed_alike),
	    contract_test(expired_is_gone),
	    contract_test(message_ttl_is_the_queues),
	    contract_test(the_brokers_dead_are_listed),
	};

	return cmocka_run_group_tests_name("publishing", tests, NULL, NULL);
}
