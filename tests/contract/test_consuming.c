/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* The backend's own consumers, without the window. */

static void prepared_comes_first(void **state)
{
	const char *queue = make_queue();
	struct intake *intake;

	(void)state;
	publish(queue, "one");
	intake = intake_new(backend, queue, 1);
	intake_next(intake);
	assert_false(intake->early);
	assert_int_equal(intake->prepared_count, 1);
	assert_int_equal(intake->prepared, 0);
}

static void prefetch_bounds(void **state)
{
	const char *queue = make_queue();
	struct intake *intake;

	(void)state;
	publish_numbers(queue, 10);
	intake = intake_new(backend, queue, 3);
	assert_true(intake_has(intake, 3));
	assert_true(intake_stays(intake, 3));
	assert_int_equal(settle(intake->deliveries[1], MQFS_VERB_ACK), 0);
	assert_true(intake_has(intake, 4));
	assert_true(intake_stays(intake, 4));
}

static void prefetch_can_change(void **state)
{
	const char *queue = make_queue();
	struct reader *reader;

	(void)state;
	publish_numbers(queue, 10);
	settings.prefetch = 2;
	reader = reader_new(backend, queue);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 2));
	settings.prefetch = 6;
	mqfs_consumer_configure(window(reader), &settings);
	assert_true(window_shows(reader, MQFS_DELIVERY_PENDING, 6));
}

static void release_gives_back(void **state)
{
	const char *queue = make_queue();
	struct intake *intake = intake_new(backend, queue, 1);
	struct mqfs_delivery *again;

	(void)state;
	publish(queue, "back and forth");
	assert_int_equal(settle(intake_next(intake), MQFS_VERB_RELEASE), 0);
	again = intake_next(intake);
	assert_true(has_body(again, "back and forth"));
	assert_true(again->redelivered);
	assert_int_equal(settle(again, MQFS_VERB_ACK), 0);
}

static void ack_removes(void **state)
{
	const char *queue = make_queue();
	struct mqfs_backend *other = open_another();
	struct intake *intake = intake_new(other, queue, 1);

	(void)state;
	publish(queue, "done");
	assert_int_equal(settle_at(other, intake_next(intake), MQFS_VERB_ACK), 0);
	intake_stop(intake);
	close_another(other);
	intake_forget(intake);
	assert_int_equal(depths(queue).ready, 0);
	assert_true(intake_stays(intake_new(backend, queue, 1), 0));
}

static void cancel_and_consume_again(void **state)
{
	const char *queue = make_queue();
	struct intake *first = intake_new(backend, queue, 1), *second;
	struct mqfs_delivery *held;

	(void)state;
	publish_numbers(queue, 2);
	held = intake_next(first);
	intake_stop(first);
	assert_true(intake_stays(first, 1));
	assert_int_equal(settle(held, MQFS_VERB_ACK), 0); /* still settleable */
	second = intake_new(backend, queue, 1);
	assert_true(has_body(intake_next(second), "1"));
	assert_int_equal(settle(second->deliveries[0], MQFS_VERB_ACK), 0);
	assert_true(intake_stays(second, 1));
}

static void cancel_of_nothing(void **state)
{
	struct call *call = call_new();

	(void)state;
	mqfs_cancel(backend, make_queue(), call_done, call);
	assert_int_equal(call_wait(call), 0);
}

static void consuming_nothing_ends(void **state)
{
	struct intake *intake = intake_new(backend, make_name(), 1);

	(void)state;
	assert_true(WAIT_UNTIL(intake->ended != 0, ENOUGH_MS));
	assert_int_equal(intake->ended, -ENOENT);
}

static void new_messages_wake_consumers(void **state)
{
	const char *queue = make_queue();
	struct intake *intake = intake_new(backend, queue, 10);

	(void)state;
	assert_true(intake_stays(intake, 0));
	publish(queue, "here");
	assert_true(intake_has(intake, 1));
}

static void another_mounts_messages_wake_consumers(void **state)
{
	const char *queue = make_queue();
	struct mqfs_backend *other = open_another();
	struct intake *intake = intake_new(other, queue, 10);

	(void)state;
	assert_true(intake_stays(intake, 0));
	publish(queue, "from the first mount");
	assert_true(intake_has(intake, 1));
}

static void closing_gives_back(void **state)
{
	const char *queue = make_queue();
	struct mqfs_backend *other = open_another();
	struct intake *intake = intake_new(other, queue, 5), *rest;

	(void)state;
	publish_numbers(queue, 3);
	assert_true(intake_has(intake, 3));
	close_another(other);
	intake_forget(intake);
	rest = intake_new(backend, queue, 5);
	assert_true(intake_has(rest, 3));
}

#define SHARED 300

static void two_mounts_compete(void **state)
{
	const char *queue = make_queue();
	struct mqfs_backend *other = open_another();
	struct intake *intakes[2] = {intake_new(backend, queue, 10), intake_new(other, queue, 10)};
	size_t acked[2] = {0, 0};
	bool seen[SHARED] = {false};

	(void)state;
	publish_numbers(queue, SHARED);
	for (int rounds = 0; acked[0] + acked[1] < SHARED && rounds < 20 * SHARED; rounds++) {
		int i = rounds % 2;
		struct mqfs_delivery *delivery;
		int number;

		if (!WAIT_UNTIL(intakes[i]->count > acked[i], 20))
			continue;
		delivery = intakes[i]->deliveries[acked[i]++];
		number = number_of(delivery);
		assert_false(seen[number]);
		seen[number] = true;
		assert_int_equal(settle_at(intakes[i]->at, delivery, MQFS_VERB_ACK), 0);
	}
	assert_int_equal(acked[0] + acked[1], SHARED);
	assert_true(acked[0] > 0 && acked[1] > 0);
	assert_true(ready_becomes(queue, 0));
}

static void a_failed_move_leaves_it_held(void **state)
{
	const char *queue = make_queue();
	struct mqfs_delivery *delivery;
	struct mqfs_disposition move = {.verb = MQFS_VERB_MOVE, .place = MQFS_PLACE_READY};
	struct intake *intake = intake_new(backend, queue, 1);
	struct call *call = call_new();

	(void)state;
	publish(queue, "stays");
	delivery = intake_next(intake);
	move.queue = make_name();
	move.copy = mqfs_copy_afresh(delivery->message, -1, mqfs_clock_realtime_us());
	mqfs_settle(backend, delivery, &move, in_ms(ENOUGH_MS), call_done, call);
	assert_int_equal(call_wait(call), -ENOENT);
	assert_true(intake_stays(intake, 1));
	assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
	assert_true(ready_becomes(queue, 0));
}

static int move_to_end(const char *queue, struct mqfs_delivery *delivery)
{
	struct mqfs_disposition move = {.verb = MQFS_VERB_MOVE, .queue = queue, .place = MQFS_PLACE_READY};
	struct call *call = call_new();

	move.copy = mqfs_copy_afresh(delivery->message, -1, mqfs_clock_realtime_us());
	mqfs_settle(backend, delivery, &move, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

/* It is published there as anywhere: behind what waits, and within the queue's bounds. */
static void a_move_to_its_own_queue_is_a_move(void **state)
{
	const char *queue;
	struct mqfs_delivery *delivery;
	struct intake *intake;

	(void)state;
	settings.max_length = 2;
	settings.overflow = MQFS_OVERFLOW_REJECT_PUBLISH;
	queue = make_queue();
	publish_numbers(queue, 2);
	intake = intake_new(backend, queue, 1);
	delivery = intake_next(intake);
	assert_int_equal(number_of(delivery), 0);
	assert_int_equal(move_to_end(queue, delivery), 0);
	delivery = intake_next(intake);
	assert_int_equal(number_of(delivery), 1);
	publish(queue, "2");
	assert_int_equal(move_to_end(queue, delivery), -ENOSPC);
	assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
	for (int i = 0; i <= 2; i += 2) {
		delivery = intake_next(intake);
		assert_int_equal(number_of(delivery), i);
		assert_int_equal(settle(delivery, MQFS_VERB_ACK), 0);
	}
	assert_true(ready_becomes(queue, 0));
}

int test_consuming(void)
{
	const struct CMUnitTest tests[] = {
	    contract_test(prepared_comes_first),
	    contract_test(prefetch_bounds),
	    contract_test(prefetch_can_change),
	    contract_test(release_gives_back),
	    contract_test(a_move_to_its_own_queue_is_a_move),
	    contract_test(ack_removes),
	    contract_test(cancel_and_consume_again),
	    contract_test(cancel_of_nothing),
	    contract_test(consuming_nothing_ends),
	    contract_test(new_messages_wake_consumers),
	    contract_test(another_mounts_messages_wake_consumers),
	    contract_test(closing_gives_back),
	    contract_test(two_mounts_compete),
	    contract_test(a_failed_move_leaves_it_held),
	};

	return cmocka_run_group_tests_name("consuming", tests, NULL, NULL);
}
