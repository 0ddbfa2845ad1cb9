/* SPDX-License-Identifier: MIT */
#include "contract.h"

/* Queues and messages: the backend's calls, waited for. */

struct made {
	mqfs_name_t name;
};

/* Empties a queue whose test may have failed anywhere. */
static void drain_place(const char *queue, enum mqfs_place place);
static void drain_ready(const char *queue);

static void undo_queue(void *arg)
{
	struct made *made = arg;
	int result;

	for (int tries = 0; tries < 5; tries++) {
		result = delete_queue(made->name);
		if (result == 0 || result == -ENOENT)
			break;
		drain_ready(made->name);
		drain_place(made->name, MQFS_PLACE_RETRY);
		drain_place(made->name, MQFS_PLACE_DEAD);
	}
	if (result < 0 && result != -ENOENT)
		fprintf(stderr, "contract: %s is left behind: %s\n", made->name, strerror(-result));
	free(made);
}

static struct made *name_new(void)
{
	static unsigned number;
	struct made *made = calloc(1, sizeof(*made));

	assert_non_null(made);
	snprintf(made->name, sizeof(made->name), "contract-%d-%lld-%u", (int)getpid(),
	         (long long)mqfs_clock_realtime_us(), ++number);
	return made;
}

const char *make_name(void)
{
	struct made *made = name_new();

	defer(free, made);
	return made->name;
}

const char *make_queue(void)
{
	struct made *made = name_new();

	assert_int_equal(declare(made->name), 0);
	defer(undo_queue, made);
	return made->name;
}

int declare(const char *queue)
{
	struct call *call = call_new();

	mqfs_queue_declare(backend, queue, &settings, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

int find(struct mqfs_backend *at, const char *queue)
{
	struct call *call = call_new();

	mqfs_queue_find(at, queue, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

int delete_queue(const char *queue)
{
	struct call *call = call_new();

	mqfs_queue_delete(backend, queue, false, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

struct counting {
	bool done;
	int result;
	struct mqfs_depths depths;
};

static void counting_done(void *arg, int result, const struct mqfs_depths *depths)
{
	struct counting *counting = arg;

	shared_lock();
	counting->result = result;
	if (result == 0)
		counting->depths = *depths;
	counting->done = true;
	shared_changed();
	shared_unlock();
}

struct mqfs_depths depths(const char *queue)
{
	struct counting *counting = calloc(1, sizeof(*counting));
	struct mqfs_depths depths;

	assert_non_null(counting);
	mqfs_queue_depths(backend, queue, in_ms(ENOUGH_MS), counting_done, counting);
	assert_true(WAIT_UNTIL(counting->done, 2 * ENOUGH_MS));
	assert_int_equal(counting->result, 0);
	depths = counting->depths;
	free(counting);
	return depths;
}

static bool becomes(const char *queue, size_t field, int64_t value)
{
	int64_t deadline_ms = in_ms(ENOUGH_MS), now;

	for (;;) {
		struct mqfs_depths found = depths(queue);

		memcpy(&now, (const char *)&found + field, sizeof(now));
		if (now == value)
			return true;
		if (mqfs_clock_monotonic_ms() > deadline_ms)
			break;
		sleep_ms(50);
	}
	print_message("    (%s holds %lld, not %lld)\n", queue, (long long)now, (long long)value);
	return false;
}

bool ready_becomes(const char *queue, int64_t ready)
{
	return becomes(queue, offsetof(struct mqfs_depths, ready), ready);
}

bool dead_becomes(const char *queue, int64_t dead)
{
	return becomes(queue, offsetof(struct mqfs_depths, dead), dead);
}

bool retry_becomes(const char *queue, int64_t retry)
{
	return becomes(queue, offsetof(struct mqfs_depths, retry), retry);
}

static size_t intake_count(struct intake *intake)
{
	shared_lock();
	size_t count = intake->count;
	shared_unlock();
	return count;
}

static void drain_ready(const char *queue)
{
	struct intake *intake = intake_new(backend, queue, 100);
	size_t settled = 0;

	do {
		WAIT_UNTIL(intake->count > settled, 200);
		for (size_t count = intake_count(intake); settled < count; settled++)
			settle(intake->deliveries[settled], MQFS_VERB_ACK);
	} while (depths(queue).ready > 0 && settled < INTAKE_MAX);
	intake_stop(intake);
}

static void acked(void *arg, int result, const char *reason)
{
	(void)arg;
	(void)reason;
	if (result < 0)
		fprintf(stderr, "contract: a message can't be removed: %s\n", strerror(-result));
}

static void drained(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	struct mqfs_disposition ack = {.verb = MQFS_VERB_ACK};

	for (size_t i = 0; i < count; i++) {
		mqfs_settle(backend, deliveries[i], &ack, in_ms(ENOUGH_MS), acked, NULL);
		mqfs_delivery_unref(deliveries[i]);
	}
	call_done(arg, result, NULL);
}

static void drain_place(const char *queue, enum mqfs_place place)
{
	struct call *call = call_new();

	mqfs_browse(backend, queue, place, 1000, in_ms(ENOUGH_MS), drained, call);
	call_wait(call);
}

struct mqfs_message *message_new(const char *body)
{
	struct mqfs_message *message = mqfs_message_new();

	assert_non_null(message);
	assert_int_equal(mqfs_body_write(message->body, 0, body, strlen(body)), 0);
	return message;
}

struct mqfs_message *message_with(const char *body, int priority, const char *message_id)
{
	struct mqfs_message *message = message_new(body);

	message->priority = priority;
	assert_int_equal(mqfs_message_set_string(&message->message_id, message_id), 0);
	return message;
}

int publish_message(const char *queue, enum mqfs_place place, int64_t delay_ms, struct mqfs_message *message)
{
	struct call *call = call_new();

	mqfs_publish(backend, queue, place, delay_ms, message, in_ms(ENOUGH_MS), call_done, call);
	return call_wait(call);
}

void publish_at(const char *queue, const char *body, int priority)
{
	struct mqfs_message *message = message_with(body, priority, NULL);

	assert_int_equal(mqfs_message_stamp(message, "task.txt", mqfs_clock_realtime_us()), 0);
	assert_int_equal(publish_message(queue, MQFS_PLACE_READY, 0, message), 0);
}

void publish(const char *queue, const char *body)
{
	publish_at(queue, body, -1);
}

void publish_numbers(const char *queue, int count)
{
	char body[16];

	for (int i = 0; i < count; i++) {
		snprintf(body, sizeof(body), "%d", i);
		publish(queue, body);
	}
}

int number_of(const struct mqfs_delivery *delivery)
{
	const struct mqfs_body *body = delivery->message->body;
	int number = 0;

	for (size_t i = 0; i < body->bytes; i++)
		number = number * 10 + body->data[i] - '0';
	return number;
}

bool has_body(const struct mqfs_delivery *delivery, const char *body)
{
	return delivery->message->body->bytes == strlen(body) &&
	       memcmp(delivery->message->body->data, body, strlen(body)) == 0;
}

int settle_at(struct mqfs_backend *at, struct mqfs_delivery *delivery, enum mqfs_verb verb)
{
	struct mqfs_disposition disposition = {.verb = verb};
	struct call *call = call_new();
	int result;

	mqfs_settle(at, delivery, &disposition, in_ms(ENOUGH_MS), call_done, call);
	result = call_wait(call);
	if (result == 0)
		delivery->state = MQFS_DELIVERY_SETTLED; /* for intake.c; a window has states of its own */
	return result;
}

int settle(struct mqfs_delivery *delivery, enum mqfs_verb verb)
{
	return settle_at(backend, delivery, verb);
}
