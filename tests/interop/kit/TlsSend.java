// SPDX-License-Identifier: GPL-3.0-or-later
//
// A small SMTP client on Java's own TLS: TlsSend CA NAME MODE:VERSION:PORT:SENDER:RECIPIENT:FILE...
//
// One session on 127.0.0.1 for each, all from one SSLContext, whose cache resumes sessions of the same name and
// port. The server's certificate must be of the CA and for NAME. Says a line of each: MODE:VERSION VERSION CIPHER.
// Ends with 1 and the exception when TLS or the server refuses.

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public final class TlsSend {
	private BufferedReader in;
	private OutputStream out;

	public static void main(String[] args) {
		try {
			SSLContext context = context(args[0]);
			for (int i = 2; i < args.length; i++)
				new TlsSend().run(context, args[1], args[i].split(":", 6));
		} catch (Exception e) {
			System.out.println(e);
			System.exit(1);
		}
	}

	private static SSLContext context(String ca) throws Exception {
		KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null, null);
		try (InputStream file = Files.newInputStream(Path.of(ca))) {
			store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
		}
		TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		trust.init(store);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(null, trust.getTrustManagers(), null);
		return context;
	}

	private void run(SSLContext context, String name, String[] job) throws Exception {
		int port = Integer.parseInt(job[2]);
		try (Socket plain = new Socket("127.0.0.1", port)) {
			plain.setSoTimeout(20000);
			if (job[0].equals("starttls")) {
				over(plain);
				expect("220");
				say("EHLO client.test", "250");
				say("STARTTLS", "220");
			}
			SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket(plain, name, port, true);
			SSLParameters parameters = tls.getSSLParameters();
			parameters.setEndpointIdentificationAlgorithm("HTTPS");
			parameters.setProtocols(new String[] {job[1]});
			tls.setSSLParameters(parameters);
			tls.startHandshake();
			over(tls);
			if (job[0].equals("implicit"))
				expect("220");
			mail(job[3], job[4], Files.readAllBytes(Path.of(job[5])));
			System.out.println(job[0] + ":" + job[1] + " " + tls.getSession().getProtocol() + " "
				+ tls.getSession().getCipherSuite());
		}
	}

	private void mail(String sender, String recipient, byte[] content) throws IOException {
		say("EHLO client.test", "250");
		say("MAIL FROM:<" + sender + ">", "250");
		say("RCPT TO:<" + recipient + ">", "250");
		say("DATA", "354");
		out.write(stuffed(content));
		say(".", "250");
		say("QUIT", "221");
	}

	private void over(Socket socket) throws IOException {
		in = new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.ISO_8859_1));
		out = socket.getOutputStream();
	}

	private void say(String line, String code) throws IOException {
		out.write((line + "\r\n").getBytes(StandardCharsets.US_ASCII));
		out.flush();
		expect(code);
	}

	private void expect(String code) throws IOException {
		String line;
		do {
			line = in.readLine();
			if (line == null || !line.startsWith(code))
				throw new IOException("expected " + code + ", got " + line);
		} while (line.startsWith("-", 3));
	}

	private static byte[] stuffed(byte[] content) {
		ByteArrayOutputStream out = new ByteArrayOutputStream(content.length + 1000);
		for (int i = 0; i < content.length; i++) {
			boolean first = i == 0 || (i > 1 && content[i - 1] == '\n' && content[i - 2] == '\r');
			if (first && content[i] == '.')
				out.write('.');
			out.write(content[i]);
		}
		return out.toByteArray();
	}
}
