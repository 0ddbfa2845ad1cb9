/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* The window of one mount: who takes what, who waits. */

static void claim_takes_what_is_there(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery;

	(void)state;
	publish(queue, "a task");
	delivery = claim(reader);
	assert_true(has_body(delivery, "a task"));
	assert_int_equal(mqfs_consumer_state(window(reader), delivery), MQFS_DELIVERY_CLAIMED);
	assert_string_equal(delivery->claimed_by, "the test");
	assert_true(window_shows(reader, MQFS_DELIVERY_CLAIMED, 1));
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 0));
}

struct waiting {
	struct mqfs_waiter waiter;
	int answers, result;
	struct mqfs_delivery *delivery;
};

static void answered(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	struct waiting *waiting = (struct waiting *)waiter;

	shared_lock();
	waiting->answers++;
	waiting->result = result;
	waiting->delivery = delivery;
	shared_changed();
	shared_unlock();
}

static void claim_waits_for_a_message(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct waiting first = {.waiter.done = answered}, second = {.waiter.done = answered};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(window(reader), "first", true, &first.waiter, &none), 0);
	assert_int_equal(mqfs_consumer_claim(window(reader), "second", true, &second.waiter, &none), 0);
	assert_false(WAIT_UNTIL(first.answers + second.answers > 0, 300));
	publish(queue, "one");
	assert_true(WAIT_UNTIL(first.answers == 1, ENOUGH_MS)); /* who waits longest */
	assert_true(has_body(first.delivery, "one"));
	assert_string_equal(first.delivery->claimed_by, "first");
	publish(queue, "two");
	assert_true(WAIT_UNTIL(second.answers == 1, ENOUGH_MS));
	assert_true(has_body(second.delivery, "two"));
	assert_true(first.answers == 1);
	mqfs_delivery_unref(first.delivery);
	mqfs_delivery_unref(second.delivery);
}

static void claim_without_waiting(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery = NULL;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(window(reader), "n", false, NULL, &delivery), -EAGAIN);
	publish(queue, "now");
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 1));
	assert_true(mqfs_consumer_has_pending(window(reader)));
	assert_int_equal(mqfs_consumer_claim(window(reader), "n", false, NULL, &delivery), 1);
	assert_true(has_body(delivery, "now"));
	assert_false(mqfs_consumer_has_pending(window(reader)));
	mqfs_delivery_unref(delivery);
}

static void a_cancelled_claim_loses_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);

	(void)state;
	assert_null(claim_within(reader, 200));
	publish(queue, "kept");
	assert_true(has_body(claim(reader), "kept"));
}

static void the_end_answers_waiters(void **state)
{
	struct reader *reader = reader_new(backend, make_queue());
	struct waiting waiting = {.waiter.done = answered};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(window(reader), "w", true, &waiting.waiter, &none), 0);
	reader_free(reader);
	assert_true(WAIT_UNTIL(waiting.answers == 1, ENOUGH_MS));
	assert_int_equal(waiting.result, -ESHUTDOWN);
	assert_null(waiting.delivery);
}

static void claim_takes_the_most_urgent(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);

	(void)state;
	publish_at(queue, "low", 1);
	publish_at(queue, "high, first", 8);
	publish_at(queue, "high, second", 8);
	publish_at(queue, "middle", 5);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 4));
	assert_true(has_body(claim(reader), "high, first"));
	assert_true(has_body(claim(reader), "high, second"));
	assert_true(has_body(claim(reader), "middle"));
	assert_true(has_body(claim(reader), "low"));
}

/* The first look at pending/: how long it waited. */
static int64_t first_look(struct reader *reader)
{
	struct waiting waiting = {.waiter.done = answered};
	int64_t begun_ms = mqfs_clock_monotonic_ms();

	if (mqfs_consumer_wait_stocked(window(reader), &waiting.waiter) == 0)
		assert_true(WAIT_UNTIL(waiting.answers == 1 && waiting.result == 0, ENOUGH_MS));
	return mqfs_clock_monotonic_ms() - begun_ms;
}

static void the_first_look_is_not_empty(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_consumer_state seen;

	(void)state;
	publish(queue, "there");
	assert_true(first_look(reader) < 2000);
	mqfs_consumer_state_of(window(reader), &seen);
	assert_int_equal(seen.pending, 1);
	assert_true(seen.consuming);
	assert_int_equal(seen.prepared, 0);
}

static void the_first_look_at_nothing_ends(void **state)
{
	struct reader *reader = reader_new(backend, make_queue());

	(void)state;
	assert_true(first_look(reader) < 2000);
	for (int i = 0; i < 5; i++) {
		sleep_ms(300);
		if (first_look(reader) < 100)
			return;
	}
	fail_msg("later ones wait, too");
}

static void one_of_all_takers_succeeds(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery;

	(void)state;
	publish(queue, "taken once");
	delivery = window_first(reader, MQFS_DELIVERY_PENDING);
	assert_int_equal(mqfs_consumer_take(window(reader), delivery, "one", NULL, NULL), 0);
	assert_int_equal(mqfs_consumer_take(window(reader), delivery, "two", NULL, NULL), -EBUSY);
	assert_string_equal(delivery->claimed_by, "one");
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), 0);
	assert_int_equal(mqfs_consumer_take(window(reader), delivery, "three", NULL, NULL), -ENOENT);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), -ENOENT);
	assert_true(ready_becomes(queue, 0));
}

static void an_untaken_message_is_not_acknowledged(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery;

	(void)state;
	publish(queue, "untaken");
	delivery = window_first(reader, MQFS_DELIVERY_PENDING);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), -EPERM);
	assert_int_equal(mqfs_consumer_extend(window(reader), delivery), -EPERM);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 1));
}

static void check_order(struct mqfs_delivery *delivery, void *arg)
{
	char *last = arg;

	assert_true(strcmp(last, delivery->name) < 0);
	snprintf(last, sizeof(mqfs_name_t), "%s", delivery->name);
}

static void names_are_found_and_sorted(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery, *found;
	enum mqfs_delivery_state found_state;
	mqfs_name_t last = "";

	(void)state;
	for (int i = 0; i < 5; i++)
		publish_at(queue, "same", i);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 5));
	mqfs_consumer_list(window(reader), MQFS_DELIVERY_PENDING, check_order, last);
	assert_non_null(strstr(last, "-task.txt"));
	found = mqfs_consumer_find(window(reader), last, &found_state);
	assert_non_null(found);
	assert_int_equal(found_state, MQFS_DELIVERY_PENDING);
	mqfs_delivery_unref(found);
	assert_null(mqfs_consumer_find(window(reader), "no such name", NULL));

	/* Given back, it comes under a new name; the old one is never used again. */
	delivery = window_first(reader, MQFS_DELIVERY_PENDING);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_RELEASE), 0);
	assert_null(mqfs_consumer_find(window(reader), delivery->name, NULL));
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 5));
	assert_null(mqfs_consumer_find(window(reader), delivery->name, NULL));
}

static void the_window_is_bounded(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	settings.prefetch = 3;
	reader = reader_new(backend, queue);
	for (int i = 0; i < 6; i++)
		publish(queue, "task");
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 3));
	assert_true(comes_to(&counted(reader)->prefetch_full, 1));
	claim(reader);
	sleep_ms(200);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2));
	assert_int_equal(
	    mqfs_consumer_settle(window(reader), window_first(reader, MQFS_DELIVERY_CLAIMED), MQFS_SETTLE_ACK), 0);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 3));
	assert_true(counted(reader)->prefetch_full >= 2);
}

static void two_windows_take_each_message_once(void **state)
{
	const char *queue = make_queue();
	struct reader *readers[2] = {NULL, NULL};
	int taken[2] = {0, 0};
	bool seen[100] = {false};

	(void)state;
	settings.prefetch = 5;
	readers[0] = reader_new(backend, queue);
	readers[1] = reader_new(open_another(), queue);
	publish_numbers(queue, 100);
	for (int tries = 0; taken[0] + taken[1] < 100 && tries < 300; tries++) {
		struct mqfs_delivery *delivery = claim_within(readers[tries % 2], 100);

		if (!delivery)
			continue;
		assert_false(seen[number_of(delivery)]);
		seen[number_of(delivery)] = true;
		assert_int_equal(mqfs_consumer_settle(window(readers[tries % 2]), delivery, MQFS_SETTLE_ACK), 0);
		taken[tries % 2]++;
	}
	assert_int_equal(taken[0] + taken[1], 100);
	assert_true(taken[0] > 0 && taken[1] > 0);
	for (int i = 0; i < 2; i++)
		assert_true(comes_to(&counted(readers[i])->acked, taken[i]));
	assert_true(ready_becomes(queue, 0));
}

static void forward_moves(void **state)
{
	const char *queue = make_queue(), *target = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *moved;

	(void)state;
	publish_at(queue, "moved", 2);
	assert_int_equal(forward(reader, claim(reader), target, 9), 0);
	assert_true(ready_becomes(queue, 0));
	moved = claim(reader_new(backend, target));
	assert_true(has_body(moved, "moved"));
	assert_int_equal(moved->message->priority, 9);
	assert_int_equal(history_of(moved).attempts, 0);
}

static void forward_to_nowhere_changes_nothing(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);
	struct mqfs_delivery *delivery;

	(void)state;
	publish(queue, "stays");
	delivery = claim(reader);
	assert_int_equal(forward(reader, delivery, make_name(), -1), -ENOENT);
	assert_int_equal(mqfs_consumer_state(window(reader), delivery), MQFS_DELIVERY_CLAIMED);
	assert_int_equal(mqfs_consumer_settle(window(reader), delivery, MQFS_SETTLE_ACK), 0);
	assert_true(ready_becomes(queue, 0));
}

static void stop_gives_back(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);

	(void)state;
	publish(queue, "one");
	publish(queue, "two");
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2));
	assert_int_equal(window_stop(reader), 0);
	assert_true(ready_becomes(queue, 2));
	assert_int_equal(depths(queue).consumers, 0);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2)); /* a look starts it again */
}

static void the_end_gives_back(void **state)
{
	const char *queue = make_queue();
	struct reader *reader = reader_new(backend, queue);

	(void)state;
	publish(queue, "claimed");
	publish(queue, "pending");
	claim(reader);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 1));
	reader_free(reader);
	assert_true(ready_becomes(queue, 2));
}

int test_window(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(claim_takes_what_is_there),
	    contract_test(claim_waits_for_a_message),
	    contract_test(claim_without_waiting),
	    contract_test(a_cancelled_claim_loses_nothing),
	    contract_test(the_end_answers_waiters),
	    contract_test(claim_takes_the_most_urgent),
	    contract_test(the_first_look_is_not_empty),
	    contract_test(the_first_look_at_nothing_ends),
	    contract_test(one_of_all_takers_succeeds),
	    contract_test(an_untaken_message_is_not_acknowledged),
	    contract_test(names_are_found_and_sorted),
	    contract_test(the_window_is_bounded),
	    contract_test(two_windows_take_each_message_once),
	    contract_test(forward_moves),
	    contract_test(forward_to_nowhere_changes_nothing),
	    contract_test(stop_gives_back),
	    contract_test(the_end_gives_back),
	};

	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
