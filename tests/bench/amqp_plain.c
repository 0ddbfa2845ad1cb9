/* SPDX-License-Identifier: MIT */
/*
 * What RabbitMQ itself gives a plain client: one connection, no files, nothing kept. Prints how many
 * messages went through and the seconds it took.
 *
 *     amqp_plain publish-for PORT QUEUE WINDOW SECONDS  persistent, mandatory, 1 KiB, WINDOW unconfirmed at most
 *     amqp_plain consume PORT QUEUE PREFETCH COUNT      each message acknowledged by itself
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

enum { BODY_BYTES = 1024, CHANNEL = 1, FRAME_MAX = 131072, WINDOW_MAX = 65536 };

/* Which tags of the window are confirmed: a ring from the oldest that is not to the next to be published. */
struct confirms {
	bool confirmed[WINDOW_MAX];
	uint64_t first, next, outstanding;
};

static amqp_connection_state_t connection;
static amqp_bytes_t queue;

__attribute__((noreturn)) static void fail(const char *what)
{
	fprintf(stderr, "amqp_plain: %s\n", what);
	exit(1);
}

static void check(int status, const char *what)
{
	if (status != AMQP_STATUS_OK) {
		fprintf(stderr, "amqp_plain: %s: %s\n", what, amqp_error_string2(status));
		exit(1);
	}
}

static void check_reply(amqp_rpc_reply_t reply, const char *what)
{
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		fail(what);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void open_connection(int port)
{
	amqp_socket_t *socket;

	connection = amqp_new_connection();
	socket = amqp_tcp_socket_new(connection);
	check(amqp_socket_open(socket, "127.0.0.1", port), "connect");
	check_reply(amqp_login(connection, "/", 0, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"), "login");
	amqp_channel_open(connection, CHANNEL);
	check_reply(amqp_get_rpc_reply(connection), "channel.open");
}

static void close_connection(void)
{
	check_reply(amqp_channel_close(connection, CHANNEL, AMQP_REPLY_SUCCESS), "channel.close");
	check_reply(amqp_connection_close(connection, AMQP_REPLY_SUCCESS), "connection.close");
	amqp_destroy_connection(connection);
}

/* A broker may confirm out of order, singly and many at once. */
static void note_ack(struct confirms *confirms, const amqp_basic_ack_t *ack)
{
	for (uint64_t tag = ack->multiple ? confirms->first : ack->delivery_tag; tag <= ack->delivery_tag; tag++) {
		confirms->outstanding -= !confirms->confirmed[tag % WINDOW_MAX];
		confirms->confirmed[tag % WINDOW_MAX] = true;
	}
	while (confirms->first < confirms->next && confirms->confirmed[confirms->first % WINDOW_MAX])
		confirms->first++;
}

static void wait_for_ack(struct confirms *confirms)
{
	amqp_frame_t frame;

	check(amqp_simple_wait_frame(connection, &frame), "wait");
	if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
		fail("not an ack");
	note_ack(confirms, frame.payload.method.decoded);
}

static void publish_one(struct confirms *confirms, amqp_bytes_t body)
{
	amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};

	check(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, true, false, &properties, body),
	      "publish");
	confirms->confirmed[confirms->next++ % WINDOW_MAX] = false;
	confirms->outstanding++;
}

static uint64_t publish_for(uint64_t window, double seconds)
{
	static struct confirms confirms = {.first = 1, .next = 1};
	char body[BODY_BYTES];
	double end = now_s() + seconds;

	memset(body, 'm', sizeof(body));
	amqp_confirm_select(connection, CHANNEL);
	check_reply(amqp_get_rpc_reply(connection), "confirm.select");
	while (now_s() < end || confirms.outstanding > 0) {
		/* One is spare, so that the ring tells all of the window apart. */
		while (confirms.outstanding < window && confirms.next - confirms.first < WINDOW_MAX - 1 &&
		       now_s() < end)
			publish_one(&confirms, (amqp_bytes_t){.len = sizeof(body), .bytes = body});
		if (confirms.outstanding > 0)
			wait_for_ack(&confirms);
		amqp_maybe_release_buffers(connection);
	}
	return confirms.next - 1;
}

static void consume(uint16_t prefetch, uint64_t count)
{
	amqp_envelope_t envelope;

	amqp_basic_qos(connection, CHANNEL, 0, prefetch, false);
	check_reply(amqp_get_rpc_reply(connection), "basic.qos");
	amqp_basic_consume(connection, CHANNEL, queue, amqp_empty_bytes, false, false, false, amqp_empty_table);
	check_reply(amqp_get_rpc_reply(connection), "basic.consume");
	for (uint64_t i = 0; i < count; i++) {
		check_reply(amqp_consume_message(connection, &envelope, &(struct timeval){.tv_sec = 10}, 0), "consume");
		check(amqp_basic_ack(connection, CHANNEL, envelope.delivery_tag, false), "ack");
		amqp_destroy_envelope(&envelope);
		amqp_maybe_release_buffers(connection);
	}
}

int main(int argc, char **argv)
{
	bool publishing = argc == 6 && strcmp(argv[1], "publish-for") == 0;
	uint64_t count;
	double start;

	if (!publishing && (argc != 6 || strcmp(argv[1], "consume") != 0)) {
		fprintf(stderr, "usage: amqp_plain publish-for|consume PORT QUEUE WINDOW SECONDS|COUNT\n");
		return 2;
	}
	open_connection(atoi(argv[2]));
	queue = amqp_cstring_bytes(argv[3]);
	start = now_s();
	if (publishing) {
		count = publish_for(strtoull(argv[4], NULL, 10), atof(argv[5]));
	} else {
		count = strtoull(argv[5], NULL, 10);
		consume((uint16_t)atoi(argv[4]), count);
	}
	printf("%llu %.6f\n", (unsigned long long)count, now_s() - start);
	close_connection();
	return 0;
}
