/* SPDX-License-Identifier: MIT */
#include "consumer_fixture.h"

/* The window, without anything that outlives it; test_recall.c has the rest. */

static void an_ack_ends_it(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	assert_asked(0, MQFS_VERB_ACK, 1, 1);
	complete(0, 0, NULL);
	assert_int_equal(delivery->state, MQFS_DELIVERY_SETTLED);
	assert_int_equal(counters.acked, 1);
	mqfs_delivery_unref(delivery);
}

static void assert_claims(const char *id)
{
	struct mqfs_delivery *delivery = claim();

	assert_string_equal(delivery->message->message_id, id);
	mqfs_delivery_unref(delivery);
}

/* A broker delivers what is urgent first, but not before what it has delivered already. */
static void the_most_urgent_is_claimed_first(void **state)
{
	(void)state;
	deliver_urgent("low", 2);
	deliver_urgent("none", -1);
	deliver_urgent("high", 9);
	deliver_urgent("middle", 5);
	deliver_urgent("high too", 9);
	assert_claims("high");
	assert_claims("high too");
	assert_claims("middle");
	assert_claims("low");
	assert_claims("none");
}

static void a_late_failure_is_listed_and_tried_again(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, -ETIMEDOUT, "the broker is silent");
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_string_equal(delivery->error, "the broker is silent");
	tick_in(1000);
	assert_int_equal(fake.settled, 1);
	assert_true(tick_in(1000) <= mqfs_clock_monotonic_ms() + 3000);
	tick_in(3100);
	assert_asked(1, MQFS_VERB_ACK, 1, 1);
	complete(1, 0, NULL);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	assert_int_equal(counters.acked, 1);
	mqfs_delivery_unref(delivery);
}

static void note_delivery(struct mqfs_delivery *delivery, void *arg)
{
	*(struct mqfs_delivery **)arg = delivery;
}

/* From pending/ it is taken and settled in one step (C5). */
static void a_late_failure_of_an_untaken_one_is_a_claim(void **state)
{
	struct mqfs_delivery *delivery = NULL;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	mqfs_consumer_list(consumer, MQFS_DELIVERY_PENDING, note_delivery, &delivery);
	assert_int_equal(settle(delivery, MQFS_SETTLE_BURY), 0);
	complete(0, -ETIMEDOUT, NULL);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_true(delivery->claimed_us > 0);
	assert_true(delivery->expires_ms > mqfs_clock_monotonic_ms());
}

static void a_claim_whose_outcome_is_tried_never_expires(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, -ETIMEDOUT, NULL);
	tick_in(settings.claim_timeout_ms + 1000);
	assert_asked(1, MQFS_VERB_ACK, 1, 1);
	assert_int_equal(counters.expired_claims, 0);
	mqfs_delivery_unref(delivery);
}

static void a_new_outcome_replaces_the_one_being_tried(void **state)
{
	struct mqfs_delivery *delivery;
	struct mqfs_history history;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(mqfs_consumer_set_error(consumer, delivery, "exit 1", 6), 0);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, -EHOSTDOWN, "away");
	tick_in(3100);
	assert_asked(1, MQFS_VERB_ACK, 1, 1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_BURY), 0); /* while the ack is in flight */
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	complete(1, -EHOSTDOWN, "away");
	assert_asked(2, MQFS_VERB_MOVE, 1, 1);
	assert_int_equal(fake.settles[2].place, MQFS_PLACE_DEAD);
	mqfs_history_read(fake.settles[2].copy, &history);
	assert_string_equal(history.error, "exit 1"); /* the failure's reason, not the late one's */
	complete(2, 0, NULL);
	assert_int_equal(counters.acked, 0);
	assert_int_equal(counters.dead_lettered, 1);
	mqfs_delivery_unref(delivery);
}

/* Its taker was killed, but the family has settled it (C3). */
static void a_killed_taker_replaces_no_outcome(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, -EHOSTDOWN, "away");
	assert_int_equal(settle(delivery, MQFS_SETTLE_ABANDON), -EBUSY);
	tick_in(3100);
	assert_asked(1, MQFS_VERB_ACK, 1, 1);
	mqfs_delivery_unref(delivery);
}

static void a_lost_claim_is_attached_to_its_redelivery(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	deliver("id", "copy", true, 2, 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	assert_asked(0, MQFS_VERB_ACK, 2, 1);
	complete(0, 0, NULL);
	deliver("id", "copy", true, 2, 2); /* used up: the next one is a delivery like any other */
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 1);
	mqfs_delivery_unref(delivery);
}

static void an_outcome_waits_for_the_redelivery(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	assert_int_equal(fake.settled, 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	deliver("id", "copy", true, 2, 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_asked(0, MQFS_VERB_ACK, 2, 1);
	complete(0, 0, NULL);
	assert_int_equal(counters.acked, 1);
	mqfs_delivery_unref(delivery);
}

static void only_the_very_copy_is_matched(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	deliver("id", "another copy", true, 2, 1);
	deliver("id", NULL, true, 2, 2);
	deliver("another id", "copy", true, 2, 3);
	deliver("id", "copy", false, 2, 4); /* not redelivered: published twice */
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 4);
	assert_int_equal(fake.settled, 0);
	mqfs_delivery_unref(delivery);
}

static void a_stranger_is_known_by_its_id(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", NULL, false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	deliver("id", NULL, true, 2, 1);
	assert_asked(0, MQFS_VERB_ACK, 2, 1);
	mqfs_delivery_unref(delivery);
}

static void without_an_id_it_is_stale(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver(NULL, NULL, false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), -ESTALE);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), -ESTALE); /* as the kernel repeats it */
	tick_in(1100);
	assert_int_equal(delivery->state, MQFS_DELIVERY_LOST);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), -ESTALE);
	deliver(NULL, NULL, true, 2, 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 1);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	assert_int_equal(fake.settled, 0);
	mqfs_delivery_unref(delivery);
}

static void what_nobody_took_is_forgotten(void **state)
{
	(void)state;
	deliver("id", "copy", false, 1, 1);
	deliver("younger", "copy 2", false, 2, 2);
	lose(1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 1);
	deliver("id", "copy", true, 2, 3);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 2);
}

static void a_record_ages_out(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	tick_in(3600000 + 1000);
	assert_int_equal(delivery->state, MQFS_DELIVERY_LOST);
	deliver("id", "copy", true, 2, 1);
	assert_int_equal(fake.settled, 0);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 1);
	mqfs_delivery_unref(delivery);
}

static void an_outcome_in_flight_is_kept(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_BURY), 0);
	lose(1);
	complete(0, -ESTALE, NULL);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	deliver("id", "copy", true, 2, 1);
	assert_asked(1, MQFS_VERB_MOVE, 2, 1);
	assert_int_equal(fake.settles[1].place, MQFS_PLACE_DEAD);
	mqfs_delivery_unref(delivery);
}

static void a_redelivery_may_overtake_the_completion(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_BURY), 0);
	lose(1);
	deliver("id", "copy", true, 2, 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_int_equal(fake.settled, 1);
	complete(0, -ETIMEDOUT, NULL);
	assert_asked(1, MQFS_VERB_MOVE, 2, 1);
	complete(1, 0, NULL);
	assert_int_equal(counters.dead_lettered, 1);
	mqfs_delivery_unref(delivery);
}

static void a_safe_copy_is_not_published_again(void **state)
{
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 7);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_RETRY), 0);
	complete(0, MQFS_MOVED_STALE, NULL);
	lose(1);
	deliver("id", "copy", true, 2, 1);
	assert_asked(1, MQFS_VERB_ACK, 2, 1);
	complete(1, 0, NULL);
	assert_int_equal(counters.retried, 1);
	assert_int_equal(counters.acked, 0);
	mqfs_delivery_unref(delivery);
}

static void without_places_for_failures(void **state)
{
	struct mqfs_delivery *first, *second;

	(void)state;
	fake.sink->prepared(fake.sink_arg, -EACCES, "refused");
	deliver("id", "copy", false, 1, 1);
	deliver("id 2", "copy 2", false, 1, 2);
	first = claim();
	second = claim();
	assert_int_equal(settle(first, MQFS_SETTLE_RETRY), -EACCES);
	assert_int_equal(settle(first, MQFS_SETTLE_BURY), -EACCES);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 2);
	assert_int_equal(settle(first, MQFS_SETTLE_ABANDON), 0);
	assert_asked(0, MQFS_VERB_RELEASE, 1, 1);
	tick_in(settings.claim_timeout_ms + 1000);
	assert_asked(1, MQFS_VERB_RELEASE, 1, 2);
	assert_int_equal(counters.expired_claims, 1);
	mqfs_delivery_unref(first);
	mqfs_delivery_unref(second);
}

static void consumer_timeout_bounds_a_claim(void **state)
{
	struct mqfs_delivery *delivery;
	int64_t left_ms;

	(void)state;
	settings.claim_timeout_ms = 40 * 60000;
	settings.consumer_timeout_ms = 30 * 60000;
	mqfs_consumer_configure(consumer, &settings);
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	left_ms = delivery->expires_ms - mqfs_clock_monotonic_ms();
	assert_true(left_ms <= 29 * 60000 && left_ms > 29 * 60000 - 5000);
	assert_int_equal(mqfs_consumer_extend(consumer, delivery), -ETIME);
	mqfs_delivery_unref(delivery);
}

static void cancel_and_consume_never_cross(void **state)
{
	(void)state;
	deliver("id", "copy", false, 1, 1);
	tick_in(settings.idle_release_ms + 1000);
	assert_int_equal(fake.cancels, 1);
	assert_int_equal(fake.settled, 0); /* given back when the cancel is done, or it would come again */
	mqfs_consumer_touch(consumer);
	assert_int_equal(fake.consumes, 1);
	complete_cancel();
	assert_asked(0, MQFS_VERB_RELEASE, 1, 1);
	assert_int_equal(fake.consumes, 2);
	complete(0, 0, NULL);
}

static void a_stop_waits_for_all(void **state)
{
	struct outcome stopped = {0};

	(void)state;
	deliver("id", "copy", false, 1, 1);
	mqfs_consumer_stop(consumer, note, &stopped);
	assert_int_equal(fake.cancels, 1);
	complete_cancel();
	mqfs_consumer_touch(consumer); /* consuming begins again, but not before */
	assert_int_equal(stopped.times, 0);
	assert_int_equal(fake.consumes, 1);
	complete(0, 0, NULL);
	assert_int_equal(stopped.times, 1);
	assert_int_equal(stopped.result, 0);
	assert_int_equal(fake.consumes, 2);
}

static void note_claim(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	mqfs_delivery_unref(delivery);
	waiter->result = result - 1000;
}

static void a_stop_that_came_to_nothing_goes_on_for_who_waits(void **state)
{
	struct mqfs_waiter waiter = {.done = note_claim};
	struct outcome stopped = {0};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(consumer, "unit", true, &waiter, &none), 0);
	mqfs_consumer_stop(consumer, note, &stopped);
	complete_cancel();
	assert_int_equal(stopped.times, 1);
	assert_int_equal(fake.consumes, 1);
	mqfs_consumer_resume(consumer);
	assert_int_equal(fake.consumes, 2);
	deliver("id", "copy", false, 2, 1);
	assert_int_equal(waiter.result, 1 - 1000);
}

static void a_stop_for_good_ends_who_waits(void **state)
{
	struct mqfs_waiter waiter = {.done = note_claim};
	struct outcome stopped = {0};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(consumer, "unit", true, &waiter, &none), 0);
	mqfs_consumer_stop(consumer, note, &stopped);
	complete_cancel();
	assert_int_equal(waiter.result, 0);
	mqfs_consumer_gone(consumer);
	assert_int_equal(waiter.result, -ENOENT - 1000);
	assert_int_equal(fake.consumes, 1);
}

static void note_waiter(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	assert_null(delivery);
	assert_int_equal(waiter->kind, 0);
	waiter->result = result - 1000;
}

static void an_ended_consumer_answers_its_waiters(void **state)
{
	struct mqfs_waiter waiter = {.done = note_waiter};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(consumer, "unit", true, &waiter, &none), 0);
	fake.sink->ended(fake.sink_arg, -ENOENT, "deleted");
	assert_int_equal(waiter.result, -ENOENT - 1000);
	assert_int_equal(fake.cancels, 1); /* tells when the sink is free */
	complete_cancel();
	assert_int_equal(fake.consumes, 1);
	mqfs_consumer_touch(consumer);
	assert_int_equal(fake.consumes, 2);
}

static void a_waiter_keeps_consuming(void **state)
{
	struct mqfs_waiter waiter = {.done = note_nothing};
	struct mqfs_delivery *none;

	(void)state;
	assert_int_equal(mqfs_consumer_claim(consumer, "unit", true, &waiter, &none), 0);
	tick_in(settings.idle_release_ms + 1000);
	assert_int_equal(fake.cancels, 0);
	assert_true(mqfs_consumer_cancel_wait(consumer, &waiter));
	assert_false(mqfs_consumer_cancel_wait(consumer, &waiter));
	tick_in(settings.idle_release_ms + 1000);
	assert_int_equal(fake.cancels, 1);
}

static void note_answer(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	assert_null(delivery);
	waiter->result = 1000 + result;
}

/* Tenet 2. */
static void a_peek_starts_nothing(void **state)
{
	int count = 0;

	(void)state;
	tick_in(settings.idle_release_ms + 1000);
	assert_int_equal(fake.cancels, 1);
	complete_cancel();
	mqfs_consumer_peek(consumer, MQFS_DELIVERY_PENDING, count_one, &count);
	assert_int_equal(fake.consumes, 1);
	assert_int_equal(listed(MQFS_DELIVERY_PENDING), 0);
	assert_int_equal(fake.consumes, 2);
}

static void a_first_look_waits_a_quarter_of_a_second(void **state)
{
	struct mqfs_waiter waiter = {.done = note_answer};

	(void)state;
	assert_int_equal(mqfs_consumer_wait_stocked(consumer, &waiter), 0);
	assert_true(tick_in(0) <= mqfs_clock_monotonic_ms() + 250);
	assert_int_equal(waiter.result, 0);
	tick_in(251);
	assert_int_equal(waiter.result, 1000);
}

static void a_look_at_an_empty_queue_is_answered_at_once(void **state)
{
	struct mqfs_waiter waiter = {.done = note_answer};

	(void)state;
	assert_int_equal(mqfs_consumer_wait_stocked(consumer, &waiter), 0);
	fake.sink->drained(fake.sink_arg);
	assert_int_equal(waiter.result, 1000);
	assert_int_equal(mqfs_consumer_wait_stocked(consumer, &waiter), 1);
}

static void a_reason_keeps_its_end(void **state)
{
	struct mqfs_delivery *delivery;
	char text[5000];

	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text + sizeof(text) - 4, "e\0nd", 4);
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(mqfs_consumer_set_error(consumer, delivery, text, sizeof(text)), 0);
	assert_int_equal(strlen(delivery->error), 4096);
	assert_string_equal(delivery->error + 4092, "e nd");
	assert_int_equal(mqfs_consumer_set_error(consumer, delivery, "", 0), 0);
	assert_null(delivery->error);
	mqfs_delivery_unref(delivery);
}

static void what_lies_untaken_goes_back(void **state)
{
	(void)state;
	deliver("id", "copy", false, 1, 1);
	mqfs_consumer_touch(consumer);
	settings.pending_timeout_ms = 20000;
	mqfs_consumer_configure(consumer, &settings);
	tick_in(19000);
	assert_int_equal(fake.settled, 0);
	tick_in(20100);
	assert_int_equal(fake.cancels, 1); /* to others: while this consumer lives it would come back at once */
	complete_cancel();
	assert_asked(0, MQFS_VERB_RELEASE, 1, 1);
}

/* Who may settle it was judged by the state it was found in (C4). */
static void what_was_taken_meanwhile_is_anothers(void **state)
{
	struct outcome outcome = {0};
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(
	    mqfs_consumer_settle_durably(consumer, delivery, MQFS_DELIVERY_PENDING, MQFS_SETTLE_BURY, note, &outcome),
	    -EBUSY);
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_PENDING, "other", -1, MQFS_NEVER, note, &outcome),
	    -EBUSY);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_int_equal(fake.settled, 0);
	mqfs_delivery_unref(delivery);
}

static void a_forward_that_fails_leaves_it_claimed(void **state)
{
	struct outcome outcome = {0};
	struct mqfs_delivery *delivery;

	(void)state;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    0);
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    -ENOENT);
	complete(0, -ENOENT, NULL);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ENOENT);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	tick_in(4000);
	assert_int_equal(fake.settled, 1); /* and is not tried again */
	mqfs_delivery_unref(delivery);
}

static struct mqfs_delivery *claim_being_tried(void)
{
	struct mqfs_delivery *delivery;

	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	complete(0, -EHOSTDOWN, "away");
	return delivery;
}

static void a_forward_replaces_the_outcome_being_tried(void **state)
{
	struct mqfs_delivery *delivery = claim_being_tried();
	struct outcome outcome = {0};

	(void)state;
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    0);
	tick_in(3100);
	assert_asked(1, MQFS_VERB_MOVE, 1, 1);
	complete(1, 0, NULL);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, 0);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 0);
	mqfs_delivery_unref(delivery);
}

static void a_forward_that_fails_leaves_the_outcome_being_tried(void **state)
{
	struct mqfs_delivery *delivery = claim_being_tried();
	struct outcome outcome = {0};

	(void)state;
	assert_int_equal(
	    mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1, MQFS_NEVER, note, &outcome),
	    0);
	complete(1, -ENOENT, NULL);
	assert_int_equal(outcome.result, -ENOENT);
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	assert_true(tick_in(0) <= mqfs_clock_monotonic_ms() + 3000);
	tick_in(3100);
	assert_asked(2, MQFS_VERB_ACK, 1, 1);
	mqfs_delivery_unref(delivery);
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
	    CASE(an_ack_ends_it),
	    CASE(the_most_urgent_is_claimed_first),
	    CASE(a_late_failure_is_listed_and_tried_again),
	    CASE(a_late_failure_of_an_untaken_one_is_a_claim),
	    CASE(a_claim_whose_outcome_is_tried_never_expires),
	    CASE(a_new_outcome_replaces_the_one_being_tried),
	    CASE(a_killed_taker_replaces_no_outcome),
	    CASE(a_lost_claim_is_attached_to_its_redelivery),
	    CASE(an_outcome_waits_for_the_redelivery),
	    CASE(only_the_very_copy_is_matched),
	    CASE(a_stranger_is_known_by_its_id),
	    CASE(without_an_id_it_is_stale),
	    CASE(what_nobody_took_is_forgotten),
	    CASE(a_record_ages_out),
	    CASE(an_outcome_in_flight_is_kept),
	    CASE(a_redelivery_may_overtake_the_completion),
	    CASE(a_safe_copy_is_not_published_again),
	    CASE(without_places_for_failures),
	    CASE(consumer_timeout_bounds_a_claim),
	    CASE(cancel_and_consume_never_cross),
	    CASE(a_stop_waits_for_all),
	    CASE(a_stop_that_came_to_nothing_goes_on_for_who_waits),
	    CASE(a_stop_for_good_ends_who_waits),
	    CASE(an_ended_consumer_answers_its_waiters),
	    CASE(a_waiter_keeps_consuming),
	    CASE(a_peek_starts_nothing),
	    CASE(a_first_look_waits_a_quarter_of_a_second),
	    CASE(a_look_at_an_empty_queue_is_answered_at_once),
	    CASE(a_reason_keeps_its_end),
	    CASE(what_lies_untaken_goes_back),
	    CASE(what_was_taken_meanwhile_is_anothers),
	    CASE(a_forward_that_fails_leaves_it_claimed),
	    CASE(a_forward_replaces_the_outcome_being_tried),
	    CASE(a_forward_that_fails_leaves_the_outcome_being_tried),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
