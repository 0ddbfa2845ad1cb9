/* SPDX-License-Identifier: MIT */
#include "fake_broker.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mqfs/clock.h>

/*
 * One thread serves all connections. It answers what mqfs asks as RabbitMQ would that has every queue, two messages
 * in each work queue and one in each other; it confirms what is published and forgets it.
 */

#define CLIENTS_MAX 32
#define CHANNELS 64
#define MESSAGES_READY 2
#define FRAME_BYTES_MAX 131072

struct client {
	int fd; /* -1: free */
	enum fake_role role;
	bool greeted;
	struct fake_bytes in, out;
	char consumer_tag[64];
	uint64_t delivered;           /* tags; they rise over all channels */
	unsigned got;                 /* basic.get that gave a message */
	uint64_t published[CHANNELS]; /* tags to confirm */
	uint64_t body_left[CHANNELS];
};

static struct {
	pthread_t thread;
	int listener, wake[2];
	char url[64];
	struct client clients[CLIENTS_MAX];
	struct fake_script *script;
	_Atomic int64_t hang_up_ms;
	_Atomic bool ending;
	_Atomic unsigned settled;
} broker = {.listener = -1};

/* ---- writing ---- */

void fake_put(struct fake_bytes *to, const void *data, size_t count)
{
	if (count > to->room - to->count) {
		to->room = (to->count + count) * 2;
		to->data = realloc(to->data, to->room);
		EXPECT(to->data);
	}
	if (count > 0)
		memcpy(to->data + to->count, data, count);
	to->count += count;
}

void fake_number(struct fake_bytes *to, uint64_t number, unsigned bytes)
{
	unsigned char text[8];

	for (unsigned i = 0; i < bytes; i++)
		text[i] = (unsigned char)(number >> (8 * (bytes - 1 - i)));
	fake_put(to, text, bytes);
}

void fake_short(struct fake_bytes *to, const char *text)
{
	size_t bytes = strnlen(text, 255);

	fake_number(to, bytes, 1);
	fake_put(to, text, bytes);
}

size_t fake_begin(struct fake_bytes *to, unsigned type, unsigned channel)
{
	fake_number(to, type, 1);
	fake_number(to, channel, 2);
	fake_number(to, 0, 4);
	return to->count;
}

void fake_end(struct fake_bytes *to, size_t begin)
{
	size_t bytes = to->count - begin;

	for (unsigned i = 0; i < 4; i++)
		to->data[begin - 4 + i] = (unsigned char)(bytes >> (8 * (3 - i)));
	fake_number(to, 0xce, 1);
}

size_t fake_method(struct fake_bytes *to, unsigned channel, unsigned class_id, unsigned method_id)
{
	size_t begin = fake_begin(to, 1, channel);

	fake_number(to, class_id, 2);
	fake_number(to, method_id, 2);
	return begin;
}

static void put_long(struct fake_bytes *to, const char *text)
{
	fake_number(to, strlen(text), 4);
	fake_put(to, text, strlen(text));
}

/* A header mqfs-copy and a message-id, both with the tag in them; then the body. */
static void put_message(struct fake_bytes *to, unsigned channel, uint64_t tag)
{
	static const char body[] = "task";
	char id[24], copy[24];
	size_t begin = fake_begin(to, 2, channel);

	snprintf(id, sizeof(id), "id-%llu", (unsigned long long)tag);
	snprintf(copy, sizeof(copy), "copy-%llu", (unsigned long long)tag);
	fake_number(to, 60, 2);
	fake_number(to, 0, 2);
	fake_number(to, strlen(body), 8);
	fake_number(to, 0x2080, 2);
	fake_number(to, 1 + strlen("mqfs-copy") + 1 + 4 + strlen(copy), 4);
	fake_short(to, "mqfs-copy");
	fake_put(to, "S", 1);
	put_long(to, copy);
	fake_short(to, id);
	fake_end(to, begin);
	begin = fake_begin(to, 3, channel);
	fake_put(to, body, strlen(body));
	fake_end(to, begin);
}

/* ---- answers ---- */

static void put_start(struct fake_bytes *to)
{
	size_t begin = fake_method(to, 0, 10, 10);

	fake_number(to, 9, 2); /* 0-9 */
	fake_number(to, 1 + strlen("version") + 1 + 4 + strlen("3.12.0"), 4);
	fake_short(to, "version");
	fake_put(to, "S", 1);
	put_long(to, "3.12.0");
	put_long(to, "PLAIN");
	put_long(to, "en_US");
	fake_end(to, begin);
}

static void put_tune(struct fake_bytes *to)
{
	size_t begin = fake_method(to, 0, 10, 30);

	fake_number(to, 2047, 2);
	fake_number(to, FRAME_BYTES_MAX, 4);
	fake_number(to, 60, 2);
	fake_end(to, begin);
}

/* Is this the question for a queue's type? It is answered with a refusal. */
static bool asks_for_type(const unsigned char *arguments, size_t bytes)
{
	return memmem(arguments, bytes, "mqfs-asks", strlen("mqfs-asks")) != NULL;
}

static void put_refusal(struct fake_bytes *to, unsigned channel)
{
	size_t begin = fake_method(to, channel, 20, 40);

	fake_number(to, 406, 2);
	fake_short(to, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received "
	               "'mqfs-asks' but current is 'classic'");
	fake_number(to, 0x0032000a, 4);
	fake_end(to, begin);
}

/* ticket, name, ...: the name is given back */
static void put_declared(struct fake_bytes *to, unsigned channel, const unsigned char *arguments, size_t bytes)
{
	size_t length = bytes > 2 ? arguments[2] : 0;
	char name[256] = "";
	bool helper;
	size_t begin;

	if (asks_for_type(arguments, bytes)) {
		put_refusal(to, channel);
		return;
	}
	if (length + 3 <= bytes && length > 0)
		memcpy(name, arguments + 3, length);
	helper = strstr(name, ".dead") || strncmp(name, "mqfs.", 5) == 0;
	begin = fake_method(to, channel, 50, 11);
	fake_short(to, name);
	fake_number(to, helper ? 1 : MESSAGES_READY, 4);
	fake_number(to, 0, 4);
	fake_end(to, begin);
}

static void put_deliveries(struct client *client, unsigned channel)
{
	for (int i = 0; i < MESSAGES_READY; i++) {
		size_t begin = fake_method(&client->out, channel, 60, 60);

		fake_short(&client->out, client->consumer_tag);
		fake_number(&client->out, ++client->delivered, 8);
		fake_number(&client->out, 0, 1);
		fake_short(&client->out, "");
		fake_short(&client->out, "q");
		fake_end(&client->out, begin);
		put_message(&client->out, channel, client->delivered);
	}
}

/* ticket, queue, tag, ...: a consumer's own tag is kept */
static void note_consumer_tag(struct client *client, const unsigned char *arguments, size_t bytes)
{
	size_t at = bytes > 2 ? 3u + arguments[2] : bytes, length;

	if (at >= bytes)
		return;
	length = arguments[at];
	if (length >= sizeof(client->consumer_tag) || at + 1 + length > bytes)
		return;
	memcpy(client->consumer_tag, arguments + at + 1, length);
	client->consumer_tag[length] = '\0';
}

static void put_tagged(struct fake_bytes *to, unsigned channel, unsigned method_id, const char *tag)
{
	size_t begin = fake_method(to, channel, 60, method_id);

	fake_short(to, tag);
	fake_end(to, begin);
}

static void put_got(struct client *client, unsigned channel)
{
	size_t begin;

	if (client->got++ % 2 == 1) {
		put_tagged(&client->out, channel, 72, "");
		return;
	}
	begin = fake_method(&client->out, channel, 60, 71);
	fake_number(&client->out, ++client->delivered, 8);
	fake_number(&client->out, 1, 1);
	fake_short(&client->out, "");
	fake_short(&client->out, "q.dead");
	fake_number(&client->out, 0, 4);
	fake_end(&client->out, begin);
	put_message(&client->out, channel, client->delivered);
}

static void put_confirm(struct client *client, unsigned channel)
{
	size_t begin = fake_method(&client->out, channel, 60, 80);

	fake_number(&client->out, ++client->published[channel % CHANNELS], 8);
	fake_number(&client->out, 0, 1);
	fake_end(&client->out, begin);
}

static void put_bare(struct client *client, unsigned channel, unsigned class_id, unsigned method_id, unsigned zeros)
{
	size_t begin = fake_method(&client->out, channel, class_id, method_id);

	fake_number(&client->out, 0, zeros);
	fake_end(&client->out, begin);
}

static void put_answer(struct client *client, unsigned event, unsigned channel, const unsigned char *arguments,
                       size_t bytes)
{
	switch (event) {
	case FAKE_HEADER:
		put_start(&client->out);
		break;
	case FAKE_START_OK:
		put_tune(&client->out);
		break;
	case FAKE_OPEN:
		put_bare(client, 0, 10, 41, 1);
		break;
	case FAKE_CLOSE:
		put_bare(client, 0, 10, 51, 0);
		break;
	case FAKE_CHANNEL_OPEN:
		put_bare(client, channel, 20, 11, 4);
		break;
	case FAKE_CHANNEL_CLOSE:
		put_bare(client, channel, 20, 41, 0);
		break;
	case FAKE_CONFIRM:
		put_bare(client, channel, 85, 11, 0);
		break;
	case FAKE_DECLARE:
		put_declared(&client->out, channel, arguments, bytes);
		break;
	case FAKE_DELETE:
		put_bare(client, channel, 50, 41, 4);
		break;
	case FAKE_QOS:
		put_bare(client, channel, 60, 11, 0);
		break;
	case FAKE_CONSUME_METHOD:
		put_tagged(&client->out, channel, 21, client->consumer_tag);
		put_deliveries(client, channel);
		break;
	case FAKE_CANCEL:
		put_tagged(&client->out, channel, 31, client->consumer_tag);
		break;
	case FAKE_PUBLISHED:
		put_confirm(client, channel);
		break;
	case FAKE_GET:
		put_got(client, channel);
		break;
	default:
		break;
	}
}

/* ---- reading ---- */

/* The event of a method; FAKE_EVENTS: none that is of interest. */
static unsigned event_of(unsigned class_id, unsigned method_id)
{
	static const struct {
		unsigned class_id, method_id, event;
	} events[] = {
	    {10, 11, FAKE_START_OK},
	    {10, 31, FAKE_TUNE_OK},
	    {10, 40, FAKE_OPEN},
	    {10, 50, FAKE_CLOSE},
	    {20, 10, FAKE_CHANNEL_OPEN},
	    {20, 40, FAKE_CHANNEL_CLOSE},
	    {20, 41, FAKE_CHANNEL_CLOSE_OK},
	    {85, 10, FAKE_CONFIRM},
	    {50, 10, FAKE_DECLARE},
	    {50, 40, FAKE_DELETE},
	    {60, 10, FAKE_QOS},
	    {60, 20, FAKE_CONSUME_METHOD},
	    {60, 30, FAKE_CANCEL},
	    {60, 70, FAKE_GET},
	    {60, 80, FAKE_ACK},
	    {60, 90, FAKE_NACK},
	    {60, 120, FAKE_NACK},
	};

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (events[i].class_id == class_id && events[i].method_id == method_id)
			return events[i].event;
	return FAKE_EVENTS;
}

static void note_role(struct client *client, const unsigned char *arguments, size_t bytes)
{
	static const char *const names[FAKE_ROLES] = {"mqfs publish", "mqfs consume", "mqfs admin", "mqfs look"};

	for (unsigned i = 0; i < FAKE_ROLES; i++)
		if (memmem(arguments, bytes, names[i], strlen(names[i])))
			client->role = i;
}

/* false: the connection is over. */
static bool on_event(struct client *client, unsigned event, unsigned channel, const unsigned char *arguments,
                     size_t bytes)
{
	struct fake_step *step;
	bool closes = event == FAKE_CLOSE;

	if (event == FAKE_START_OK)
		note_role(client, arguments, bytes);
	if (event == FAKE_CONSUME_METHOD)
		note_consumer_tag(client, arguments, bytes);
	if (event == FAKE_ACK || event == FAKE_NACK)
		atomic_fetch_add(&broker.settled, 1);
	step = fake_script_find(broker.script, client->role, event);
	if (step && step->when != FAKE_AFTER)
		closes |= fake_script_put(&client->out, step, channel, client->consumer_tag);
	if (!step || step->when != FAKE_INSTEAD)
		put_answer(client, event, channel, arguments, bytes);
	if (step && step->when == FAKE_AFTER)
		closes |= fake_script_put(&client->out, step, channel, client->consumer_tag);
	return !closes;
}

static uint64_t read_number(const unsigned char *data, unsigned bytes)
{
	uint64_t number = 0;

	for (unsigned i = 0; i < bytes; i++)
		number = number << 8 | data[i];
	return number;
}

static bool on_content(struct client *client, unsigned type, unsigned channel, const unsigned char *payload,
                       size_t bytes)
{
	uint64_t *left = &client->body_left[channel % CHANNELS];

	if (type == 2 && bytes >= 12)
		*left = read_number(payload + 4, 8);
	else if (type == 3)
		*left -= bytes < *left ? bytes : *left;
	if (*left > 0 || (type != 2 && type != 3))
		return true;
	return on_event(client, FAKE_PUBLISHED, channel, NULL, 0);
}

static bool on_frame(struct client *client, const unsigned char *frame, size_t bytes)
{
	unsigned channel = (unsigned)read_number(frame + 1, 2), event;

	if (frame[0] != 1 || bytes < 4)
		return on_content(client, frame[0], channel, frame + 7, bytes);
	event = event_of((unsigned)read_number(frame + 7, 2), (unsigned)read_number(frame + 9, 2));
	return event == FAKE_EVENTS || on_event(client, event, channel, frame + 11, bytes - 4);
}

/* Takes what is whole off the front. false: the connection is over. */
static bool on_input(struct client *client)
{
	struct fake_bytes *in = &client->in;
	size_t at = 0, bytes;
	bool goes_on = true;

	if (!client->greeted && in->count >= 8) {
		client->greeted = true;
		goes_on = on_event(client, FAKE_HEADER, 0, NULL, 0);
		at = 8;
	}
	while (goes_on && client->greeted && in->count - at >= 7) {
		bytes = read_number(in->data + at + 3, 4);
		EXPECT(bytes <= FRAME_BYTES_MAX); /* mqfs keeps to what it was told */
		if (in->count - at < bytes + 8)
			break;
		EXPECT(in->data[at + 7 + bytes] == 0xce);
		goes_on = on_frame(client, in->data + at, bytes);
		at += bytes + 8;
	}
	memmove(in->data, in->data + at, in->count - at);
	in->count -= at;
	return goes_on;
}

/* ---- connections ---- */

static void client_drop(struct client *client)
{
	close(client->fd);
	free(client->in.data);
	free(client->out.data);
	*client = (struct client){.fd = -1};
}

static void client_accept(void)
{
	int fd = accept(broker.listener, NULL, NULL), yes = 1;

	for (size_t i = 0; fd >= 0 && i < CLIENTS_MAX; i++) {
		if (broker.clients[i].fd >= 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		broker.clients[i] = (struct client){.fd = fd, .role = FAKE_ROLES};
		return;
	}
	if (fd >= 0)
		close(fd);
}

static void client_serve(struct client *client)
{
	unsigned char buffer[65536];
	ssize_t count = recv(client->fd, buffer, sizeof(buffer), 0);
	bool goes_on = count > 0;

	if (count > 0) {
		fake_put(&client->in, buffer, (size_t)count);
		goes_on = on_input(client);
	}
	/* It may be too much for the socket, if mqfs doesn't read on; then the rest isn't sent. */
	if (client->out.count > 0 &&
	    send(client->fd, client->out.data, client->out.count, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		goes_on = false;
	client->out.count = 0;
	if (!goes_on)
		client_drop(client);
}

static bool is_hung_up(void)
{
	return mqfs_clock_monotonic_ms() >= atomic_load(&broker.hang_up_ms);
}

static void poll_once(void)
{
	struct pollfd files[CLIENTS_MAX + 2] = {{.fd = broker.wake[0], .events = POLLIN},
	                                        {.fd = broker.listener, .events = POLLIN}};
	int64_t left_ms = atomic_load(&broker.hang_up_ms) == MQFS_NEVER
	                      ? 1000
	                      : atomic_load(&broker.hang_up_ms) - mqfs_clock_monotonic_ms();
	char byte;

	for (size_t i = 0; i < CLIENTS_MAX; i++)
		files[i + 2] = (struct pollfd){.fd = broker.clients[i].fd, .events = POLLIN};
	if (poll(files, CLIENTS_MAX + 2, left_ms < 0 || left_ms > 1000 ? 1000 : (int)left_ms) < 0)
		return;
	if (files[0].revents)
		EXPECT(read(broker.wake[0], &byte, 1) == 1);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (files[i + 2].revents)
			client_serve(&broker.clients[i]);
	if (files[1].revents)
		client_accept();
	for (size_t i = 0; is_hung_up() && i < CLIENTS_MAX; i++)
		if (broker.clients[i].fd >= 0)
			client_drop(&broker.clients[i]);
}

static void *serve(void *arg)
{
	(void)arg;
	while (!atomic_load(&broker.ending))
		poll_once();
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (broker.clients[i].fd >= 0)
			client_drop(&broker.clients[i]);
	return NULL;
}

static void wake(void)
{
	EXPECT(write(broker.wake[1], "", 1) == 1);
}

static void listen_once(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(address);

	broker.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	EXPECT(broker.listener >= 0);
	EXPECT(bind(broker.listener, (struct sockaddr *)&address, bytes) == 0 && listen(broker.listener, 64) == 0);
	EXPECT(getsockname(broker.listener, (struct sockaddr *)&address, &bytes) == 0);
	EXPECT(pipe2(broker.wake, O_CLOEXEC) == 0);
	snprintf(broker.url, sizeof(broker.url), "amqp://127.0.0.1:%d", ntohs(address.sin_port));
}

void fake_broker_start(struct fake_script *script)
{
	if (broker.listener < 0)
		listen_once();
	broker.script = script;
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		broker.clients[i].fd = -1;
	atomic_store(&broker.hang_up_ms, MQFS_NEVER);
	atomic_store(&broker.ending, false);
	atomic_store(&broker.settled, 0);
	EXPECT(pthread_create(&broker.thread, NULL, serve, NULL) == 0);
}

const char *fake_broker_url(void)
{
	return broker.url;
}

void fake_broker_hang_up(int64_t in_ms)
{
	atomic_store(&broker.hang_up_ms, mqfs_clock_monotonic_ms() + in_ms);
	wake();
}

void fake_broker_end(void)
{
	atomic_store(&broker.ending, true);
	wake();
	pthread_join(broker.thread, NULL);
}

unsigned fake_broker_settled(void)
{
	return atomic_load(&broker.settled);
}
