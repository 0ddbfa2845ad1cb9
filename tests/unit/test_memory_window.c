/* SPDX-License-Identifier: MIT */
#include "memory_fixture.h"

#include "consumer_fixture.h"

#include <mqfs/look.h>

#include <cjson/cJSON.h>

/*
 * The window and the look when memory runs out: each case is run while one allocation after the other fails, until none
 * does. Nobody is left without an answer, and no message without a place: it is listed, or was given back, or settled.
 */

static mqfs_browse_fn *browsed;
static void *browsed_arg;

static void fake_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                        int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	(void)backend, (void)queue, (void)place, (void)limit, (void)deadline_ms;
	browsed = done;
	browsed_arg = arg;
}

static void fake_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	(void)backend;
	*ret_status = (struct mqfs_backend_status){.connected = true};
}

static int begin(void **state)
{
	static struct mqfs_backend_ops ops;
	int r = setup(state);

	ops = fake_ops;
	ops.browse = fake_browse;
	ops.status = fake_status;
	fake.base.ops = &ops;
	mqfs_log_set_level(MQFS_LOG_ERROR - 1);
	cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = __wrap_malloc, .free_fn = __wrap_free});
	return r;
}

/* Runs a case in a window of its own each time. */
static void exhaust(void **state, void (*run)(int n))
{
	bool ran_out = true;

	for (int n = 0; ran_out; n++) {
		long before = alive;

		assert_int_equal(begin(state), 0);
		run(n);
		memory_is_back();
		ran_out = failed;
		teardown(state);
		assert_int_equal(alive, before);
	}
}

/* ---- the window ---- */

static struct mqfs_delivery *arriving(const char *id, bool redelivered)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(message_with(id, "copy"), "jobs");

	assert_non_null(delivery);
	delivery->redelivered = redelivered;
	delivery->generation = delivery->tag = 1;
	delivery->delivered_ms = mqfs_clock_monotonic_ms();
	return delivery;
}

static void run_deliver(int n)
{
	struct mqfs_delivery *delivery = arriving("id", true);

	memory_fails_after(n);
	fake.sink->delivered(fake.sink_arg, delivery);
	memory_is_back();
	assert_int_equal(listed(MQFS_DELIVERY_PENDING) + (int)fake.settled, 1);
	if (fake.settled)
		assert_asked(0, MQFS_VERB_RELEASE, 1, 1);
}

static void run_claim(int n)
{
	struct mqfs_delivery *delivery = NULL;
	int r;

	deliver("id", "copy", false, 1, 1);
	memory_fails_after(n);
	r = mqfs_consumer_claim(consumer, "unit", false, NULL, &delivery);
	memory_is_back();
	assert_true(r == 1 || r == -ENOMEM);
	assert_int_equal(listed(r == 1 ? MQFS_DELIVERY_CLAIMED : MQFS_DELIVERY_PENDING), 1);
	mqfs_delivery_unref(delivery);
}

/* Refused, it is claimed as before. Taken over, it is settled at last. */
static void settle_short_of_memory(int n, enum mqfs_settlement how)
{
	struct mqfs_delivery *delivery;
	int r;

	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	memory_fails_after(n);
	r = settle(delivery, how);
	memory_is_back();
	assert_true(r == 0 || r == -ENOMEM);
	if (r < 0) {
		assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
		assert_int_equal(settle(delivery, how), 0);
	}
	if (!fake.settled) {
		assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
		assert_non_null(delivery->error);
		tick_in(5000);
	}
	assert_int_equal(fake.settled, 1);
	complete(0, 0, NULL);
	assert_int_equal(delivery->state, MQFS_DELIVERY_SETTLED);
	mqfs_delivery_unref(delivery);
}

static void run_ack(int n)
{
	settle_short_of_memory(n, MQFS_SETTLE_ACK);
}

static void run_release(int n)
{
	settle_short_of_memory(n, MQFS_SETTLE_RELEASE);
}

static void run_retry(int n)
{
	settle_short_of_memory(n, MQFS_SETTLE_RETRY);
}

static void run_bury(int n)
{
	settle_short_of_memory(n, MQFS_SETTLE_BURY);
}

static void run_abandon(int n)
{
	settle_short_of_memory(n, MQFS_SETTLE_ABANDON);
}

static void run_forward(int n)
{
	struct outcome outcome = {0};
	struct mqfs_delivery *delivery;
	int r;

	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	memory_fails_after(n);
	r = mqfs_consumer_forward(consumer, delivery, MQFS_DELIVERY_CLAIMED, "other", -1,
	                          mqfs_clock_monotonic_ms() + 1000, note, &outcome);
	memory_is_back();
	if (r == 0) {
		complete(0, 0, NULL);
		assert_int_equal(outcome.result, 0);
	} else {
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	}
	assert_int_equal(outcome.times, r == 0);
	mqfs_delivery_unref(delivery);
}

/* What went wrong late is told as far as there is memory for it, and tried again. */
static void run_late_failure(int n)
{
	struct mqfs_delivery *delivery;

	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	memory_fails_after(n);
	complete(0, -ETIMEDOUT, "the broker is silent");
	memory_is_back();
	assert_int_equal(listed(MQFS_DELIVERY_CLAIMED), 1);
	tick_in(5000);
	assert_asked(1, MQFS_VERB_ACK, 1, 1);
	mqfs_delivery_unref(delivery);
}

/* C8: the attempt that ends by itself. */
static void run_expire(int n)
{
	deliver("id", "copy", false, 1, 1);
	mqfs_delivery_unref(claim());
	memory_fails_after(n);
	tick_in(settings.claim_timeout_ms + 1);
	memory_is_back();
	if (!fake.settled)
		tick_in(settings.claim_timeout_ms + 10000);
	assert_asked(0, MQFS_VERB_MOVE, 1, 1);
}

/* C9: the claim waits for its very copy, and is settled by that. */
static void run_lose(int n)
{
	struct mqfs_delivery *delivery, *redelivery = arriving("id", true);

	redelivery->generation = redelivery->tag = 2;
	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	memory_fails_after(n);
	lose(1);
	assert_int_equal(settle(delivery, MQFS_SETTLE_ACK), 0);
	fake.sink->delivered(fake.sink_arg, redelivery);
	memory_is_back();
	assert_asked(0, MQFS_VERB_ACK, 2, 2);
	complete(0, 0, NULL);
	mqfs_delivery_unref(delivery);
}

static void run_reason(int n)
{
	struct mqfs_delivery *delivery;
	char *text;
	int r;

	deliver("id", "copy", false, 1, 1);
	delivery = claim();
	memory_fails_after(n);
	r = mqfs_consumer_set_error(consumer, delivery, "reason", 6);
	memory_is_back();
	assert_true(r == 0 || r == -ENOMEM);
	assert_int_equal(delivery->error != NULL, r == 0);
	memory_fails_after(n);
	text = mqfs_consumer_meta(consumer, delivery);
	memory_is_back();
	assert_true(text || failed);
	free(text);
	mqfs_delivery_unref(delivery);
}

static void window(void **state)
{
	static void (*const runs[])(int n) = {run_deliver, run_claim, run_ack,     run_release,
	                                      run_retry,   run_bury,  run_abandon, run_late_failure,
	                                      run_expire,  run_lose,  run_reason,  run_forward};

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		exhaust(state, runs[i]);
}

/* ---- looking ---- */

static struct mqfs_look *look_at(enum mqfs_place place)
{
	struct mqfs_look *look = mqfs_look_new(&fake.base, "jobs", place, &settings, &counters);

	assert_non_null(look);
	return look;
}

static void count_look(struct mqfs_delivery *delivery, void *arg)
{
	(void)delivery;
	++*(int *)arg;
}

static int look_count(struct mqfs_look *look)
{
	int count = 0;

	mqfs_look_list(look, count_look, &count);
	return count;
}

static void answer_browse(int n, size_t count)
{
	struct mqfs_delivery *deliveries[3] = {arriving("a", false), arriving("b", false), arriving("c", false)};
	mqfs_browse_fn *done = browsed;

	assert_non_null(done);
	browsed = NULL;
	for (size_t i = count; i < 3; i++)
		mqfs_delivery_unref(deliveries[i]);
	memory_fails_after(n);
	done(browsed_arg, 0, deliveries, count);
	memory_is_back();
}

/* What can't be listed goes back at once. */
static void run_browse(int n)
{
	struct mqfs_look *look = look_at(MQFS_PLACE_DEAD);
	struct outcome outcome = {0};
	int r, shown;

	memory_fails_after(n);
	r = mqfs_look_refresh(look, note, &outcome);
	memory_is_back();
	if (browsed) {
		bool before = failed;

		answer_browse(n, 3);
		shown = look_count(look);
		assert_int_equal(shown + (int)fake.settled, 3);
		assert_int_equal(mqfs_look_held(look), shown);
		failed |= before;
	}
	assert_int_equal(outcome.times, r == 0);
	mqfs_look_free(look);
	for (size_t i = 0; i < fake.settled; i++)
		assert_int_equal(fake.settles[i].verb, MQFS_VERB_RELEASE);
}

static void find_first(struct mqfs_delivery *delivery, void *arg)
{
	struct mqfs_delivery **found = arg;

	if (!*found)
		*found = mqfs_delivery_ref(delivery);
}

static void settle_look(int n, enum mqfs_place place, enum mqfs_look_verb verb)
{
	struct mqfs_look *look = look_at(place);
	struct mqfs_delivery *delivery = NULL;
	struct outcome looked = {0}, outcome = {0};

	mqfs_look_refresh(look, note, &looked);
	answer_browse(-1, 1);
	mqfs_look_list(look, find_first, &delivery);
	assert_non_null(delivery);
	memory_fails_after(n);
	mqfs_look_settle(look, delivery, verb, NULL, -1, mqfs_clock_monotonic_ms() + 1000, note, &outcome);
	memory_is_back();
	if (fake.settled)
		complete(0, 0, NULL);
	assert_int_equal(outcome.times, 1);
	assert_true(outcome.result == 0 || outcome.result == -ENOMEM);
	assert_int_equal(look_count(look), outcome.result == 0 ? 0 : 1);
	mqfs_delivery_unref(delivery);
	mqfs_look_free(look);
}

static void run_discard(int n)
{
	settle_look(n, MQFS_PLACE_DEAD, MQFS_LOOK_DISCARD);
}

static void run_replay(int n)
{
	settle_look(n, MQFS_PLACE_DEAD, MQFS_LOOK_REPLAY);
}

static void run_grant(int n)
{
	settle_look(n, MQFS_PLACE_DEAD, MQFS_LOOK_GRANT);
}

static void run_retry_now(int n)
{
	settle_look(n, MQFS_PLACE_RETRY, MQFS_LOOK_RETRY_NOW);
}

static void run_give_up(int n)
{
	settle_look(n, MQFS_PLACE_RETRY, MQFS_LOOK_BURY);
}

static void looks(void **state)
{
	static void (*const runs[])(int n) = {run_browse, run_discard,   run_replay,
	                                      run_grant,  run_retry_now, run_give_up};

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		exhaust(state, runs[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(window),
	    cmocka_unit_test(looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
