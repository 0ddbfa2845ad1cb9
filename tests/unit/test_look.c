/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>
#include <stdio.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/failure.h>
#include <mqfs/log.h>
#include <mqfs/look.h>

/*
 * A look above a backend that is this test, and whose looks hold: what is browsed, held and put back, and
 * when.
 */

#define SETTLES_MAX 64

static struct fake {
	struct mqfs_backend base;
	int browses;
	int64_t silent_ms;
	size_t limit;
	mqfs_browse_fn *browsed;
	void *browsed_arg;
	struct {
		uint64_t tag;
		enum mqfs_verb verb;
		struct mqfs_message *copy;
		mqfs_done_fn *done;
		void *arg;
	} settles[SETTLES_MAX];
	size_t settled;
} fake;

static void fake_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                        int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	(void)backend;
	(void)queue;
	(void)place;
	(void)deadline_ms;
	assert_null(fake.browsed);
	fake.browses++;
	fake.limit = limit;
	fake.browsed = done;
	fake.browsed_arg = arg;
}

static void fake_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                        const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	(void)backend;
	(void)deadline_ms;
	assert_true(fake.settled < SETTLES_MAX);
	fake.settles[fake.settled].tag = delivery->tag;
	fake.settles[fake.settled].verb = disposition->verb;
	fake.settles[fake.settled].copy = disposition->copy;
	fake.settles[fake.settled].done = done;
	fake.settles[fake.settled++].arg = arg;
}

static void fake_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	(void)backend;
	*ret_status = (struct mqfs_backend_status){.connected = true, .silent_ms = fake.silent_ms};
}

static const struct mqfs_backend_ops fake_ops = {
    .scheme = "fake",
    .looks_hold = true,
    .status = fake_status,
    .browse = fake_browse,
    .settle = fake_settle,
};

static struct mqfs_look *look;
static struct mqfs_counters counters;
static struct mqfs_settings settings;

struct outcome {
	int times, result;
};

static void note(void *arg, int result, const char *reason)
{
	struct outcome *outcome = arg;

	(void)reason;
	outcome->times++;
	outcome->result = result;
}

static void complete(size_t index, int result)
{
	mqfs_done_fn *done = fake.settles[index].done;

	assert_true(index < fake.settled && done);
	fake.settles[index].done = NULL;
	mqfs_message_free(fake.settles[index].copy);
	done(fake.settles[index].arg, result, NULL);
}

/* Answers a browse with messages whose ids are the letters of ids; tags count from tag. */
static void answer(const char *ids, uint64_t generation, uint64_t tag, int64_t next_at_us)
{
	struct mqfs_delivery *deliveries[16];
	mqfs_browse_fn *browsed = fake.browsed;
	size_t count = strlen(ids);

	assert_non_null(browsed);
	assert_true(count <= fake.limit);
	for (size_t i = 0; i < count; i++) {
		struct mqfs_message *message = unit_message("body");

		assert_int_equal(mqfs_message_set_string(&message->message_id, (char[]){ids[i], '\0'}), 0);
		deliveries[i] = mqfs_delivery_new(message, "jobs");
		assert_non_null(deliveries[i]);
		deliveries[i]->generation = generation;
		deliveries[i]->tag = tag + i;
		deliveries[i]->next_at_us = next_at_us;
	}
	fake.browsed = NULL;
	browsed(fake.browsed_arg, 0, deliveries, count);
}

static int setup_at(enum mqfs_place place)
{
	fake = (struct fake){.base.ops = &fake_ops};
	memset(&counters, 0, sizeof(counters));
	mqfs_settings_init(&settings);
	settings.look_max = 10;
	mqfs_log_set_level(MQFS_LOG_ERROR);
	look = mqfs_look_new(&fake.base, "jobs", place, &settings, &counters);
	return look ? 0 : -1;
}

static int setup(void **state)
{
	(void)state;
	return setup_at(MQFS_PLACE_DEAD);
}

static int setup_retry(void **state)
{
	(void)state;
	return setup_at(MQFS_PLACE_RETRY);
}

static int teardown(void **state)
{
	(void)state;
	mqfs_look_free(look);
	if (fake.browsed)
		fake.browsed(fake.browsed_arg, -ESHUTDOWN, NULL, 0);
	for (size_t i = 0; i < fake.settled; i++)
		if (fake.settles[i].done)
			complete(i, -ESHUTDOWN);
	return 0;
}

static void add_name(struct mqfs_delivery *delivery, void *arg)
{
	strcat(strcat(arg, delivery->message->message_id), delivery->name + strlen(delivery->name) - 2);
}

/* What is listed: of each its id and the end of its name. */
static void assert_listed(const char *expected)
{
	char listed[256] = "";

	mqfs_look_list(look, add_name, listed);
	assert_string_equal(listed, expected);
}

static void refresh(struct outcome *outcome, int expected)
{
	*outcome = (struct outcome){0};
	assert_int_equal(mqfs_look_refresh(look, note, outcome), expected);
	assert_int_equal(outcome->times, 0);
}

static int64_t tick_in(int64_t ms)
{
	return mqfs_look_tick(look, mqfs_clock_monotonic_ms() + ms);
}

/* A listing of a, b and c, held. */
static void hold_three(void)
{
	struct outcome outcome;

	refresh(&outcome, 0);
	answer("abc", 1, 1, 0);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, 0);
	assert_listed("a-ab-bc-c");
}

static struct mqfs_delivery *find(const char *id)
{
	char name[64];
	struct mqfs_delivery *delivery;

	snprintf(name, sizeof(name), "0.000000-%s", id);
	delivery = mqfs_look_find(look, name);
	assert_non_null(delivery);
	return delivery;
}

static void settle(struct mqfs_delivery *delivery, enum mqfs_look_verb verb, struct outcome *outcome)
{
	*outcome = (struct outcome){0};
	mqfs_look_settle(look, delivery, verb, NULL, -1, mqfs_clock_monotonic_ms() + 5000, note, outcome);
}

static void a_fresh_listing_is_not_browsed_again(void **state)
{
	struct outcome outcome;

	(void)state;
	hold_three();
	refresh(&outcome, 1);
	assert_int_equal(fake.browses, 1);
}

static void a_browse_answers_all_who_wait(void **state)
{
	struct outcome first, second;

	(void)state;
	refresh(&first, 0);
	refresh(&second, 0);
	assert_int_equal(fake.browses, 1);
	answer("", 0, 0, 0);
	assert_int_equal(first.times + second.times, 2);
}

static void a_silent_backend_is_not_waited_for(void **state)
{
	struct outcome outcome;

	(void)state;
	refresh(&outcome, 0);
	tick_in(160);
	assert_int_equal(outcome.times, 0);
	fake.silent_ms = 160;
	tick_in(180);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ETIMEDOUT);
	answer("a", 1, 1, 0);
	assert_int_equal(outcome.times, 1);
	assert_listed("a-a");
}

static void a_slow_backend_is_waited_for_a_second(void **state)
{
	struct outcome outcome;

	(void)state;
	refresh(&outcome, 0);
	fake.silent_ms = 50;
	tick_in(900);
	assert_int_equal(outcome.times, 0);
	tick_in(1100);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ETIMEDOUT);
	answer("a", 1, 1, 0);
}

static void what_is_held_goes_back_and_rests(void **state)
{
	static struct outcome outcome; /* the teardown answers the refresh that waits */

	(void)state;
	hold_three();
	tick_in(4000);
	assert_int_equal(fake.settled, 0);
	tick_in(5100);
	assert_int_equal(fake.settled, 3);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(fake.settles[i].verb, MQFS_VERB_RELEASE);
	assert_listed("a-ab-bc-c"); /* from memory */
	mqfs_look_expire(look);
	refresh(&outcome, 1);
	assert_int_equal(fake.browses, 1);
	tick_in(10300);
	refresh(&outcome, 0);
	assert_int_equal(fake.limit, 10);
}

static void more_are_held_beside_those_that_are(void **state)
{
	struct outcome outcome;

	(void)state;
	hold_three();
	mqfs_look_expire(look);
	refresh(&outcome, 0);
	assert_int_equal(fake.limit, 7);
	answer("da", 1, 4, 0);
	assert_listed("a-aa~2b-bc-cd-d"); /* a twin: both are held, so they are two */
	tick_in(5100);
	assert_int_equal(fake.settled, 5);
}

static void a_new_connection_holds_nothing_of_the_old(void **state)
{
	struct outcome outcome;

	(void)state;
	hold_three();
	mqfs_look_expire(look);
	refresh(&outcome, 0);
	answer("ab", 2, 1, 0);
	assert_listed("a-ab-b");
	tick_in(5100);
	assert_int_equal(fake.settled, 2);
}

static void a_settled_one_is_gone(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("b");
	settle(delivery, MQFS_LOOK_DISCARD, &outcome);
	assert_int_equal(fake.settles[0].verb, MQFS_VERB_ACK);
	assert_int_equal(fake.settles[0].tag, 2);
	complete(0, 0);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, 0);
	assert_listed("a-ac-c");
	tick_in(5100);
	assert_int_equal(fake.settled, 3);
	mqfs_delivery_unref(delivery);
}

static void a_failed_settlement_leaves_it_there(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("a");
	settle(delivery, MQFS_LOOK_REPLAY, &outcome);
	assert_int_equal(fake.settles[0].verb, MQFS_VERB_MOVE);
	tick_in(5100); /* the others go back; this one is busy */
	assert_int_equal(fake.settled, 3);
	complete(0, -ENOENT);
	assert_int_equal(outcome.result, -ENOENT);
	assert_int_equal(fake.settled, 4);
	assert_int_equal(fake.settles[3].verb, MQFS_VERB_RELEASE);
	assert_int_equal(fake.settles[3].tag, 1);
	mqfs_delivery_unref(delivery);
}

static void what_went_back_is_looked_for(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("b");
	tick_in(5100);
	assert_int_equal(fake.settled, 3);
	settle(delivery, MQFS_LOOK_DISCARD, &outcome);
	assert_int_equal(fake.browses, 2);
	answer("cb", 1, 11, 0);
	assert_int_equal(fake.settled, 4);
	assert_int_equal(fake.settles[3].verb, MQFS_VERB_ACK);
	assert_int_equal(fake.settles[3].tag, 12);
	complete(3, 0);
	assert_int_equal(outcome.result, 0);
	tick_in(1100); /* the rest was interrupted: the other one goes back soon */
	assert_int_equal(fake.settled, 5);
	assert_int_equal(fake.settles[4].verb, MQFS_VERB_RELEASE);
	mqfs_delivery_unref(delivery);
}

/* Answers a browse with one message as a stranger may send it: a file name, but no id. */
static void answer_stranger(const char *body, uint64_t tag)
{
	struct mqfs_message *message = unit_message(body);
	mqfs_browse_fn *browsed = fake.browsed;
	struct mqfs_delivery *delivery;

	assert_int_equal(mqfs_headers_set_string(&message->headers, "mqfs-filename", "x"), 0);
	delivery = mqfs_delivery_new(message, "jobs");
	assert_non_null(delivery);
	delivery->generation = 1;
	delivery->tag = tag;
	fake.browsed = NULL;
	browsed(fake.browsed_arg, 0, &delivery, 1);
}

static void strangers_of_one_name_are_told_apart(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	refresh(&outcome, 0);
	answer_stranger("one", 1);
	delivery = find("x");
	tick_in(5100);
	assert_int_equal(fake.settled, 1); /* put back */
	settle(delivery, MQFS_LOOK_DISCARD, &outcome);
	answer_stranger("two", 2);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ENOENT);
	assert_int_equal(fake.settled, 1);
	mqfs_delivery_unref(delivery);
}

static void what_is_not_found_is_gone(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("b");
	tick_in(5100);
	settle(delivery, MQFS_LOOK_DISCARD, &outcome);
	answer("ac", 1, 11, 0);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ENOENT);
	mqfs_delivery_unref(delivery);
}

static void a_lost_hold_is_looked_for_once(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("b");
	settle(delivery, MQFS_LOOK_DISCARD, &outcome);
	complete(0, -ESTALE);
	assert_int_equal(outcome.times, 0);
	assert_int_equal(fake.browses, 2);
	answer("b", 2, 1, 0);
	assert_int_equal(fake.settles[1].verb, MQFS_VERB_ACK);
	complete(1, -ESTALE);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, -ESTALE);
	mqfs_delivery_unref(delivery);
}

static void a_safe_copy_is_not_published_again(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("b");
	settle(delivery, MQFS_LOOK_REPLAY, &outcome);
	complete(0, MQFS_MOVED_STALE);
	assert_int_equal(fake.browses, 2);
	answer("b", 2, 1, 0);
	assert_int_equal(fake.settles[1].verb, MQFS_VERB_ACK);
	complete(1, 0);
	assert_int_equal(outcome.times, 1);
	assert_int_equal(outcome.result, 0);
	mqfs_delivery_unref(delivery);
}

static void one_that_is_due_goes_home(void **state)
{
	struct outcome outcome;

	(void)state;
	refresh(&outcome, 0);
	answer("a", 1, 1, mqfs_clock_realtime_us() + 30000);
	assert_listed("a-a");
	assert_true(tick_in(0) <= mqfs_clock_monotonic_ms() + 40);
	while (fake.settled == 0 && tick_in(0) < MQFS_NEVER)
		;
	assert_int_equal(fake.settles[0].verb, MQFS_VERB_RELEASE);
	assert_listed("");
}

static void a_grant_is_one_more_attempt(void **state)
{
	struct mqfs_delivery *delivery;
	struct mqfs_history history;
	struct outcome outcome;

	(void)state;
	hold_three();
	delivery = find("a");
	settle(delivery, MQFS_LOOK_GRANT, &outcome);
	mqfs_history_read(fake.settles[0].copy, &history);
	assert_int_equal(history.max_attempts, history.attempts + 1);
	complete(0, 0);
	assert_int_equal(counters.retried, 1);
	mqfs_delivery_unref(delivery);
}

static void the_end_answers_everybody(void **state)
{
	struct mqfs_delivery *delivery;
	struct outcome settled, refreshed;

	(void)state;
	hold_three();
	delivery = find("a");
	tick_in(5100);
	tick_in(20000); /* rested */
	mqfs_look_expire(look);
	refresh(&refreshed, 0);
	settle(delivery, MQFS_LOOK_DISCARD, &settled);
	mqfs_look_free(look);
	assert_int_equal(refreshed.result, -ESHUTDOWN);
	assert_int_equal(settled.result, -ESHUTDOWN);
	answer("ab", 1, 11, 0); /* comes too late: goes back */
	assert_int_equal(fake.settled, 5);
	mqfs_delivery_unref(delivery);
	assert_int_equal(setup_at(MQFS_PLACE_DEAD), 0); /* for the teardown */
}

int main(void)
{
#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
	const struct CMUnitTest tests[] = {
	    CASE(a_fresh_listing_is_not_browsed_again),
	    CASE(a_browse_answers_all_who_wait),
	    CASE(a_silent_backend_is_not_waited_for),
	    CASE(a_slow_backend_is_waited_for_a_second),
	    CASE(what_is_held_goes_back_and_rests),
	    CASE(more_are_held_beside_those_that_are),
	    CASE(a_new_connection_holds_nothing_of_the_old),
	    CASE(a_settled_one_is_gone),
	    CASE(a_failed_settlement_leaves_it_there),
	    CASE(what_went_back_is_looked_for),
	    CASE(strangers_of_one_name_are_told_apart),
	    CASE(what_is_not_found_is_gone),
	    CASE(a_lost_hold_is_looked_for_once),
	    CASE(a_safe_copy_is_not_published_again),
	    cmocka_unit_test_setup_teardown(one_that_is_due_goes_home, setup_retry, teardown),
	    CASE(a_grant_is_one_more_attempt),
	    CASE(the_end_answers_everybody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
