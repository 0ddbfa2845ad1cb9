/* SPDX-License-Identifier: MIT */
/*
 * The RabbitMQ backend and a broker that sends odd frames: the input is the broker's script (fake_broker.h), and then
 * what mqfs asks meanwhile. Whatever comes, every request is answered once and in time, nobody is told of a consumer
 * after its end, what was lost is not settled, and closing ends.
 */
#include "fake_broker.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/failure.h>
#include <mqfs/log.h>

#include "amqp/amqp.h"

/* Short, since nobody answers often enough; but where the script is empty all has to go well. */
#define CONNECT_MS 150
#define REQUEST_MS 60
#define CALM_MS 20000
#define WAIT_MS 15
#define GOODBYE_MS 15
/* Beyond a deadline, on a machine that is busy with other things. */
#define GRACE_MS 8000
#define REQUESTS_MAX 32
#define HELD_MAX 64
#define QUEUES 2

struct request {
	bool answered;
	bool stale; /* a settlement of what had been lost before */
	bool settles, moves;
	int queue; /* of a cancel */
	unsigned starts;
	int64_t deadline_ms; /* MQFS_NEVER: at the close at the latest */
};

struct consumer {
	bool active;
	unsigned starts; /* calls of consume */
	uint64_t lost;   /* the newest generation that was */
};

static const char *const queues[QUEUES] = {"q", "other"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* Guarded by lock. */
static struct {
	struct request requests[REQUESTS_MAX];
	size_t count, answered;
	size_t missed;  /* not answered by the broker, in time or at all */
	size_t settled; /* successfully */
	struct consumer consumers[QUEUES];
	struct mqfs_delivery *held[HELD_MAX];
	size_t held_count;
} table;

static struct mqfs_backend *backend;
static int64_t request_ms;

/* ---- answers ---- */

static void answer(struct request *request, int result)
{
	pthread_mutex_lock(&lock);
	EXPECT(!request->answered);
	EXPECT(result <= 0 || (result == MQFS_MOVED_STALE && request->moves));
	EXPECT(result != 0 || !request->stale);
	request->answered = true;
	table.answered++;
	table.missed += result == -ETIMEDOUT || result == -EHOSTDOWN;
	table.settled += result == 0 && request->settles;
	if (request->queue >= 0 && table.consumers[request->queue].starts == request->starts)
		table.consumers[request->queue].active = false;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void on_done(void *arg, int result, const char *reason)
{
	EXPECT(!reason || strlen(reason) < 1024);
	answer(arg, result);
}

static void on_depths(void *arg, int result, const struct mqfs_depths *depths)
{
	EXPECT(result < 0 || (depths->ready >= 0 && depths->retry >= 0 && depths->dead >= 0));
	answer(arg, result);
}

static void hold(struct mqfs_delivery *delivery)
{
	EXPECT(delivery->message && delivery->message->body && delivery->queue);
	expect_readable(delivery->message);
	pthread_mutex_lock(&lock);
	if (table.held_count < HELD_MAX) {
		table.held[table.held_count++] = delivery;
		delivery = NULL;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	mqfs_delivery_unref(delivery);
}

static void on_browse(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	EXPECT(result == 0 || count == 0);
	for (size_t i = 0; i < count; i++)
		hold(deliveries[i]);
	answer(arg, result);
}

/* ---- the sink ---- */

static void expect_active(const struct consumer *consumer)
{
	pthread_mutex_lock(&lock);
	EXPECT(consumer->active);
	pthread_mutex_unlock(&lock);
}

static void on_delivered(void *arg, struct mqfs_delivery *delivery)
{
	struct consumer *consumer = arg;

	expect_active(consumer);
	EXPECT(delivery->generation > consumer->lost);
	hold(delivery);
}

static void on_lost(void *arg, uint64_t generation)
{
	struct consumer *consumer = arg;

	expect_active(consumer);
	pthread_mutex_lock(&lock);
	if (generation > consumer->lost)
		consumer->lost = generation;
	pthread_mutex_unlock(&lock);
}

static void on_drained(void *arg)
{
	expect_active(arg);
}

static void on_prepared(void *arg, int result, const char *reason)
{
	(void)result, (void)reason;
	expect_active(arg);
}

static const struct mqfs_sink sink = {
    .delivered = on_delivered,
    .lost = on_lost,
    .drained = on_drained,
    .prepared = on_prepared,
    .ended = on_prepared,
};

/* ---- requests ---- */

static struct request *request_new(void)
{
	struct request *request;

	pthread_mutex_lock(&lock);
	request = &table.requests[table.count++];
	*request = (struct request){.queue = -1, .deadline_ms = mqfs_clock_monotonic_ms() + request_ms};
	pthread_mutex_unlock(&lock);
	return request;
}

static void publish(struct input *input, int queue)
{
	struct request *request = request_new();
	struct mqfs_message *message = mqfs_message_new();
	enum mqfs_place place = input_byte(input) & 1 ? MQFS_PLACE_RETRY : MQFS_PLACE_READY;
	size_t bytes;
	char *body = input_bytes(input, &bytes);

	EXPECT(message && mqfs_body_write(message->body, 0, body, bytes) == 0);
	EXPECT(mqfs_message_stamp(message, "x", mqfs_clock_realtime_us()) == 0);
	free(body);
	mqfs_publish(backend, queues[queue], place, 1, message, request->deadline_ms, on_done, request);
}

static void consume(struct input *input, int queue)
{
	struct consumer *consumer = &table.consumers[queue];

	pthread_mutex_lock(&lock);
	consumer->active = true;
	consumer->starts++;
	pthread_mutex_unlock(&lock);
	mqfs_consume(backend, queues[queue], 1 + (int)input_below(input, 4), &sink, consumer);
}

static void cancel(int queue)
{
	struct request *request = request_new();

	pthread_mutex_lock(&lock);
	request->deadline_ms = MQFS_NEVER;
	request->queue = queue;
	request->starts = table.consumers[queue].starts;
	pthread_mutex_unlock(&lock);
	mqfs_cancel(backend, queues[queue], on_done, request);
}

/* The delivery may come up again: settling twice has to be harmless. */
static void settle(struct input *input)
{
	struct mqfs_failed_attempt attempt = {
	    .attempts = 1, .now_us = mqfs_clock_realtime_us(), .queue = "q", .host = "h"};
	struct mqfs_disposition disposition = {
	    .verb = (enum mqfs_verb)input_below(input, 3),
	    .place = (enum mqfs_place)input_below(input, 3),
	    .delay_ms = 1,
	};
	struct mqfs_delivery *delivery;
	struct request *request;
	size_t count;

	pthread_mutex_lock(&lock);
	count = table.held_count;
	delivery = count > 0 ? table.held[input_byte(input) % count] : NULL;
	pthread_mutex_unlock(&lock);
	if (!delivery)
		return;
	if (disposition.verb == MQFS_VERB_MOVE)
		disposition.copy = mqfs_copy_for_retry(delivery->message, &attempt);
	request = request_new();
	pthread_mutex_lock(&lock);
	request->settles = true;
	request->moves = disposition.verb == MQFS_VERB_MOVE;
	if (delivery->place == MQFS_PLACE_READY)
		request->stale = delivery->generation <= table.consumers[strcmp(delivery->queue, queues[0]) != 0].lost;
	/* An acknowledgement that follows a copy has a time of its own. */
	request->deadline_ms += 2000;
	pthread_mutex_unlock(&lock);
	mqfs_settle(backend, delivery, &disposition, request->deadline_ms - 2000, on_done, request);
}

static void ask(unsigned what, int queue)
{
	struct request *request = request_new();
	struct mqfs_settings settings;

	mqfs_settings_init(&settings);
	if (what == 0)
		mqfs_queue_find(backend, queues[queue], request->deadline_ms, on_done, request);
	else if (what == 1)
		mqfs_queue_depths(backend, queues[queue], request->deadline_ms, on_depths, request);
	else if (what == 2)
		mqfs_queue_declare(backend, queues[queue], &settings, request->deadline_ms, on_done, request);
	else
		mqfs_queue_delete(backend, queues[queue], what == 3, request->deadline_ms, on_done, request);
}

static void browse(struct input *input, int queue)
{
	struct request *request = request_new();
	enum mqfs_place place = input_byte(input) & 1 ? MQFS_PLACE_RETRY : MQFS_PLACE_DEAD;

	mqfs_browse(backend, queues[queue], place, 1 + input_below(input, 5), request->deadline_ms, on_browse, request);
}

/* Until all are answered, or something was delivered, or so long. */
static void wait_a_little(int64_t ms, bool for_delivery)
{
	struct timespec until;
	size_t held;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (ms % 1000) * 1000000;
	until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&lock);
	held = table.held_count;
	while ((for_delivery ? table.held_count == held : table.answered < table.count) &&
	       pthread_cond_timedwait(&changed, &lock, &until) == 0)
		;
	pthread_mutex_unlock(&lock);
}

static void act(struct input *input)
{
	unsigned what = input_below(input, 10);
	int queue = input_byte(input) & 1;

	switch (what) {
	case 0:
		publish(input, queue);
		break;
	case 1:
		consume(input, queue);
		break;
	case 2:
		settle(input);
		break;
	case 3:
		browse(input, queue);
		break;
	case 4:
		ask(input_below(input, 5), queue);
		break;
	case 5:
		cancel(queue);
		break;
	case 6:
		wait_a_little(WAIT_MS, false);
		break;
	default:
		wait_a_little(WAIT_MS, true);
	}
}

/* Every deadline is kept, also while a call to the broker goes on. */
static void expect_answers(void)
{
	int64_t now_ms;
	bool late = true;

	while (late) {
		wait_a_little(REQUEST_MS, false); /* or less, as soon as they are */
		now_ms = mqfs_clock_monotonic_ms();
		late = false;
		pthread_mutex_lock(&lock);
		for (size_t i = 0; i < table.count; i++) {
			const struct request *request = &table.requests[i];

			if (request->answered || request->deadline_ms == MQFS_NEVER)
				continue;
			EXPECT(now_ms < request->deadline_ms + GRACE_MS);
			late = true;
		}
		pthread_mutex_unlock(&lock);
	}
}

static void forget(void)
{
	for (size_t i = 0; i < table.held_count; i++)
		mqfs_delivery_unref(table.held[i]);
	memset(&table, 0, sizeof(table));
}

static void work(struct input *input, bool calm)
{
	int64_t began_ms;

	for (size_t i = 0; input->left > 0 && table.count < REQUESTS_MAX && i < 2 * REQUESTS_MAX; i++)
		act(input);
	expect_answers();
	EXPECT(!calm || table.missed == 0);
	fake_broker_hang_up(calm ? CALM_MS : GOODBYE_MS);
	began_ms = mqfs_clock_monotonic_ms();
	mqfs_backend_close(backend);
	EXPECT(mqfs_clock_monotonic_ms() - began_ms < 5000 + GRACE_MS);
	EXPECT(table.answered == table.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	struct mqfs_settings settings;
	struct fake_script script;
	char *error = NULL;
	size_t settled = 0;
	bool calm;
	int r;

	fake_script_read(&input, &script);
	calm = script.count == 0;
	request_ms = calm ? CALM_MS : REQUEST_MS;
	mqfs_log_set_level(MQFS_LOG_ERROR);
	mqfs_settings_init(&settings);
	settings.connect_timeout_ms = calm ? CALM_MS : CONNECT_MS;
	settings.heartbeat_ms = 60000;
	fake_broker_start(&script);
	fake_broker_hang_up(settings.connect_timeout_ms +
	                    GOODBYE_MS); /* who is silent by then doesn't delay the close */
	r = mqfs_amqp_open(fake_broker_url(), &settings, &backend, &error);
	if (r == 0) {
		fake_broker_hang_up(CALM_MS);
		work(&input, calm);
		settled = table.settled;
		forget();
	} else {
		EXPECT(r < 0 && error && !strstr(error, "guest") && !calm);
	}
	fake_broker_end();
	EXPECT(!calm || fake_broker_settled() >= settled);
	free(error);
	return 0;
}
