/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_CONSUMER_FIXTURE_H
#define MQFS_TESTS_UNIT_CONSUMER_FIXTURE_H

#include "unit.h"

#include <errno.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/consumer.h>
#include <mqfs/failure.h>
#include <mqfs/log.h>

/*
 * The window above a backend that is this test: it completes, fails, loses its connection and delivers
 * again when the test says so. What real backends do with the same window is the contract suite's.
 */

#define SETTLES_MAX 64

static struct fake {
	struct mqfs_backend base;
	const struct mqfs_sink *sink;
	void *sink_arg;
	int consumes, cancels, prefetch;
	mqfs_done_fn *cancelled;
	void *cancelled_arg;
	struct {
		uint64_t generation, tag;
		enum mqfs_verb verb;
		enum mqfs_place place;
		struct mqfs_message *copy;
		mqfs_done_fn *done;
		void *arg;
	} settles[SETTLES_MAX];
	atomic_size_t settled; /* how many were asked for; the last to change, since records answer on another thread */
	int published;
	mqfs_done_fn *publish_done;
	void *publish_arg;
} fake;

static inline void fake_consume(struct mqfs_backend *backend, const char *queue, int prefetch,
                                const struct mqfs_sink *sink, void *arg)
{
	(void)backend;
	(void)queue;
	fake.consumes++;
	fake.prefetch = prefetch;
	fake.sink = sink;
	fake.sink_arg = arg;
}

static inline void fake_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg)
{
	(void)backend;
	(void)queue;
	fake.cancels++;
	fake.cancelled = done;
	fake.cancelled_arg = arg;
}

static inline void fake_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                               const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done,
                               void *arg)
{
	(void)backend;
	(void)deadline_ms;
	assert_true(fake.settled < SETTLES_MAX);
	fake.settles[fake.settled].generation = delivery->generation;
	fake.settles[fake.settled].tag = delivery->tag;
	fake.settles[fake.settled].verb = disposition->verb;
	fake.settles[fake.settled].place = disposition->place;
	fake.settles[fake.settled].copy = disposition->copy;
	fake.settles[fake.settled].done = done;
	fake.settles[fake.settled].arg = arg;
	fake.settled++;
}

static void fake_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                         struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	(void)backend;
	(void)queue;
	(void)delay_ms;
	(void)deadline_ms;
	assert_int_equal(place, MQFS_PLACE_READY);
	mqfs_message_free(message);
	fake.published++;
	fake.publish_done = done;
	fake.publish_arg = arg;
}

static const struct mqfs_backend_ops fake_ops = {.scheme = "fake",
                                                 .looks_hold = true,
                                                 .acks_blind = true,
                                                 .consume = fake_consume,
                                                 .cancel = fake_cancel,
                                                 .settle = fake_settle,
                                                 .publish = fake_publish};

static struct mqfs_records *records; /* of the next consumer; NULL: none */
static struct mqfs_consumer *consumer;
static struct mqfs_counters counters;
static struct mqfs_settings settings;

static inline void complete(size_t index, int result, const char *reason)
{
	mqfs_done_fn *done = fake.settles[index].done;

	assert_true(index < fake.settled && done);
	fake.settles[index].done = NULL;
	mqfs_message_free(fake.settles[index].copy);
	done(fake.settles[index].arg, result, reason);
}

static inline void complete_publish(int result)
{
	mqfs_done_fn *done = fake.publish_done;

	assert_non_null(done);
	fake.publish_done = NULL;
	done(fake.publish_arg, result, NULL);
}

static inline void complete_cancel(void)
{
	mqfs_done_fn *done = fake.cancelled;

	assert_non_null(done);
	fake.cancelled = NULL;
	done(fake.cancelled_arg, 0, NULL);
}

static inline int setup(void **state)
{
	(void)state;
	fake = (struct fake){.base.ops = &fake_ops};
	memset(&counters, 0, sizeof(counters));
	mqfs_settings_init(&settings);
	mqfs_log_set_level(MQFS_LOG_ERROR);
	consumer = mqfs_consumer_new(&fake.base, "jobs", &settings, &counters, records);
	mqfs_consumer_touch(consumer);
	return consumer && fake.consumes == 1 ? 0 : -1;
}

/* Whatever the test left open ends as in a close of the backend. */
static inline int teardown(void **state)
{
	(void)state;
	mqfs_consumer_free(consumer);
	if (fake.cancelled)
		complete_cancel();
	for (size_t i = 0; i < fake.settled; i++)
		if (fake.settles[i].done)
			complete(i, -ESHUTDOWN, NULL);
	return 0;
}

static inline struct mqfs_message *message_with(const char *id, const char *copy)
{
	struct mqfs_message *message = unit_message("body");

	assert_int_equal(mqfs_message_set_string(&message->message_id, id), 0);
	if (copy)
		assert_int_equal(mqfs_headers_set_string(&message->headers, "mqfs-copy", copy), 0);
	return message;
}

static inline void hand_up(struct mqfs_message *message, bool redelivered, uint64_t generation, uint64_t tag)
{
	struct mqfs_delivery *delivery = mqfs_delivery_new(message, "jobs");

	assert_non_null(delivery);
	delivery->redelivered = redelivered;
	delivery->generation = generation;
	delivery->tag = tag;
	delivery->delivered_ms = mqfs_clock_monotonic_ms();
	fake.sink->delivered(fake.sink_arg, delivery);
}

static inline void deliver(const char *id, const char *copy, bool redelivered, uint64_t generation, uint64_t tag)
{
	hand_up(message_with(id, copy), redelivered, generation, tag);
}

static inline void deliver_urgent(const char *id, int priority)
{
	struct mqfs_message *message = message_with(id, NULL);

	message->priority = priority;
	hand_up(message, false, 1, 1);
}

static inline void lose(uint64_t generation)
{
	fake.sink->lost(fake.sink_arg, generation);
}

static inline void count_one(struct mqfs_delivery *delivery, void *arg)
{
	(void)delivery;
	++*(int *)arg;
}

static inline int listed(enum mqfs_delivery_state state)
{
	int count = 0;

	mqfs_consumer_list(consumer, state, count_one, &count);
	return count;
}

/* A claimed one; the reference stays with the window's while it is listed. */
static inline struct mqfs_delivery *claim(void)
{
	struct mqfs_delivery *delivery = NULL;

	assert_int_equal(mqfs_consumer_claim(consumer, "unit", false, NULL, &delivery), 1);
	return delivery;
}

static inline int settle(struct mqfs_delivery *delivery, enum mqfs_settlement how)
{
	return mqfs_consumer_settle(consumer, delivery, how);
}

static inline int64_t tick_in(int64_t ms)
{
	return mqfs_consumer_tick(consumer, mqfs_clock_monotonic_ms() + ms);
}

static inline void assert_asked(size_t index, enum mqfs_verb verb, uint64_t generation, uint64_t tag)
{
	assert_int_equal(fake.settled, index + 1);
	assert_int_equal(fake.settles[index].verb, verb);
	assert_int_equal(fake.settles[index].generation, generation);
	assert_int_equal(fake.settles[index].tag, tag);
}

struct outcome {
	int times, result;
};

static inline void note(void *arg, int result, const char *reason)
{
	struct outcome *outcome = arg;

	(void)reason;
	outcome->times++;
	outcome->result = result;
}

static inline void note_nothing(struct mqfs_waiter *waiter, int result, struct mqfs_delivery *delivery)
{
	(void)waiter;
	(void)result;
	(void)delivery;
}

#endif
