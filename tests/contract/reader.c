/* SPDX-License-Identifier: MIT */
#include "contract.h"

struct reader {
	struct mqfs_consumer *consumer;
	struct mqfs_look *retry, *dead;
	struct mqfs_counters counters;
	pthread_t thread;
	/* shared */
	bool due, ending;
};

static void wake(void *arg)
{
	struct reader *reader = arg;

	shared_lock();
	reader->due = true;
	shared_changed();
	shared_unlock();
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* As the daemon's housekeeping: ticks when something is due. */
static void *ticks(void *arg)
{
	struct reader *reader = arg;
	int64_t due_ms;

	shared_lock();
	while (!reader->ending) {
		reader->due = false;
		shared_unlock();
		due_ms = mqfs_consumer_tick(reader->consumer, mqfs_clock_monotonic_ms());
		due_ms = earlier(due_ms, mqfs_look_tick(reader->retry, mqfs_clock_monotonic_ms()));
		due_ms = earlier(due_ms, mqfs_look_tick(reader->dead, mqfs_clock_monotonic_ms()));
		due_ms = earlier(due_ms, in_ms(3600000));
		shared_lock();
		while (!reader->ending && !reader->due && shared_wait(due_ms))
			;
	}
	shared_unlock();
	return NULL;
}

void reader_free(struct reader *reader)
{
	if (!reader->consumer)
		return;
	shared_lock();
	reader->ending = true;
	shared_changed();
	shared_unlock();
	pthread_join(reader->thread, NULL);
	mqfs_consumer_free(reader->consumer);
	mqfs_look_free(reader->retry);
	mqfs_look_free(reader->dead);
	reader->consumer = NULL;
}

static void undo(void *arg)
{
	struct reader *reader = arg;

	reader_free(reader);
	free(reader);
}

struct reader *reader_new(struct mqfs_backend *at, const char *queue)
{
	struct reader *reader = calloc(1, sizeof(*reader));

	assert_non_null(reader);
	reader->consumer = mqfs_consumer_new(at, queue, &settings, &reader->counters, NULL);
	reader->retry = mqfs_look_new(at, queue, MQFS_PLACE_RETRY, &settings, &reader->counters);
	reader->dead = mqfs_look_new(at, queue, MQFS_PLACE_DEAD, &settings, &reader->counters);
	assert_non_null(reader->consumer);
	assert_non_null(reader->retry);
	assert_non_null(reader->dead);
	mqfs_consumer_on_due(reader->consumer, wake, reader);
	mqfs_look_on_due(reader->retry, wake, reader);
	mqfs_look_on_due(reader->dead, wake, reader);
	pthread_create(&reader->thread, NULL, ticks, reader);
	defer(undo, reader);
	return reader;
}

struct mqfs_consumer *window(struct reader *reader)
{
	return reader->consumer;
}

struct mqfs_counters *counted(struct reader *reader)
{
	return &reader->counters;
}

bool comes_to(atomic_ullong *counter, unsigned long long value)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS);

	while (*counter != value && mqfs_clock_monotonic_ms() < deadline_ms)
		sleep_ms(10);
	if (*counter != value)
		print_message("    (counted are %llu, not %llu)\n", (unsigned long long)*counter, value);
	return *counter == value;
}

struct mqfs_look *look_at(struct reader *reader, enum mqfs_place place)
{
	return place == MQFS_PLACE_RETRY ? reader->retry : reader->dead;
}

static void undo_reference(void *arg)
{
	mqfs_delivery_unref(arg);
}

static struct mqfs_delivery *keep(struct mqfs_delivery *delivery)
{
	if (delivery)
		defer(undo_reference, delivery);
	return delivery;
}

struct claiming {
	struct mqfs_waiter waiter;
	bool done;
	struct mqfs_delivery *delivery;
};

static void claimed(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	struct claiming *claiming = (struct claiming *)waiter;

	shared_lock();
	if (claiming->done || (result >= 0) != (delivery != NULL)) {
		fprintf(stderr, "contract: a waiter was answered twice, or with nothing\n");
		abort();
	}
	claiming->done = true;
	claiming->delivery = delivery;
	shared_changed();
	shared_unlock();
}

struct mqfs_delivery *claim_within(struct reader *reader, int64_t within_ms)
{
	struct claiming *claiming = calloc(1, sizeof(*claiming));
	struct mqfs_delivery *delivery = NULL;

	assert_non_null(claiming);
	claiming->waiter.done = claimed;
	if (mqfs_consumer_claim(reader->consumer, "the test", true, &claiming->waiter, &delivery) == 0) {
		/* When the cancel comes too late, the answer is on its way. */
		if (!WAIT_UNTIL(claiming->done, within_ms) &&
		    !mqfs_consumer_cancel_wait(reader->consumer, &claiming->waiter))
			assert_true(WAIT_UNTIL(claiming->done, ENOUGH_MS));
		delivery = claiming->delivery;
	}
	free(claiming);
	return keep(delivery);
}

struct mqfs_delivery *claim(struct reader *reader)
{
	struct mqfs_delivery *delivery = claim_within(reader, ENOUGH_MS);

	if (!delivery)
		fail_msg("no message to claim");
	return delivery;
}

static void count_one(struct mqfs_delivery *delivery, void *arg)
{
	(void)delivery;
	++*(size_t *)arg;
}

bool window_shows(struct reader *reader, enum mqfs_delivery_state state, size_t count)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS);
	size_t listed;

	do {
		listed = 0;
		mqfs_consumer_list(reader->consumer, state, count_one, &listed);
		if (listed == count)
			return true;
		sleep_ms(20);
	} while (mqfs_clock_monotonic_ms() < deadline_ms);
	print_message("    (%zu are %s, not %zu)\n", listed, mqfs_delivery_state_name(state), count);
	return false;
}

static void keep_first(struct mqfs_delivery *delivery, void *arg)
{
	struct mqfs_delivery **first = arg;

	if (!*first)
		*first = mqfs_delivery_ref(delivery);
}

struct mqfs_delivery *window_first(struct reader *reader, enum mqfs_delivery_state state)
{
	struct mqfs_delivery *first = NULL;
	int64_t deadline_ms = in_ms(ENOUGH_MS);

	do {
		mqfs_consumer_list(reader->consumer, state, keep_first, &first);
		if (!first)
			sleep_ms(20);
	} while (!first && mqfs_clock_monotonic_ms() < deadline_ms);
	if (!first)
		fail_msg("nothing is %s", mqfs_delivery_state_name(state));
	return keep(first);
}

int window_stop(struct reader *reader)
{
	struct call *call = call_new();

	mqfs_consumer_stop(reader->consumer, call_done, call);
	return call_wait(call);
}

int forward(struct reader *reader, struct mqfs_delivery *delivery, const char *queue, int priority)
{
	struct call *call = call_new();
	int result = mqfs_consumer_forward(reader->consumer, delivery, MQFS_DELIVERY_CLAIMED, queue, priority,
	                                   in_ms(ENOUGH_MS), call_done, call);

	if (result == 0)
		return call_wait(call);
	free(call);
	return result;
}

size_t look_count(struct mqfs_look *look)
{
	struct call *call = call_new();
	size_t listed = 0;
	int result = 0;

	if (mqfs_look_refresh(look, call_done, call) == 0)
		result = call_wait(call);
	else
		free(call);
	/* Beside a broker that is busy: what was there at the last look. */
	assert_true(result == 0 || result == -ETIMEDOUT);
	mqfs_look_list(look, count_one, &listed);
	return listed;
}

bool look_shows(struct mqfs_look *look, size_t count)
{
	int64_t deadline_ms = in_ms(4 * ENOUGH_MS); /* a hold and a rest may lie between */
	size_t listed;

	while ((listed = look_count(look)) != count) {
		if (mqfs_clock_monotonic_ms() > deadline_ms) {
			print_message("    (%zu are listed, not %zu)\n", listed, count);
			return false;
		}
		sleep_ms(50);
	}
	return true;
}

struct search {
	const char *body;
	struct mqfs_delivery *found;
};

static void match(struct mqfs_delivery *delivery, void *arg)
{
	struct search *search = arg;

	if (!search->found && has_body(delivery, search->body))
		search->found = mqfs_delivery_ref(delivery);
}

struct mqfs_delivery *look_find_body(struct mqfs_look *look, const char *body)
{
	struct search search = {.body = body};
	int64_t deadline_ms = in_ms(4 * ENOUGH_MS);

	while (!search.found && mqfs_clock_monotonic_ms() < deadline_ms) {
		look_count(look);
		mqfs_look_list(look, match, &search);
		if (!search.found)
			sleep_ms(50);
	}
	if (!search.found)
		fail_msg("'%s' is not listed", body);
	return keep(search.found);
}

int look_settle(struct mqfs_look *look, struct mqfs_delivery *delivery, enum mqfs_look_verb verb, const char *queue,
                int priority)
{
	struct call *call = call_new();

	mqfs_look_settle(look, delivery, verb, queue, priority, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

struct mqfs_history history_of(const struct mqfs_delivery *delivery)
{
	struct mqfs_history history;

	mqfs_history_read(delivery->message, &history);
	return history;
}
