// A chat page, as applications write it with useStream. `?url=` names the gateway; the thread is kept in the address.

import { useStream } from "@langchain/langgraph-sdk/react";
import { useState } from "react";
import { createRoot } from "react-dom/client";

const address = new URL(location.href);

function Chat() {
  const [threadId, setThreadId] = useState(address.searchParams.get("thread"));
  const [draft, setDraft] = useState("");
  const chat = useStream({
    apiUrl: address.searchParams.get("url"),
    assistantId: "chat",
    threadId,
    onThreadId(id) {
      address.searchParams.set("thread", id);
      history.replaceState(null, "", address);
      setThreadId(id);
    },
    fetchStateHistory: { limit: 100 },
    reconnectOnMount: true,
  });
  const say = (options) => {
    setDraft("");
    chat.submit({ messages: [{ type: "human", content: draft }] }, options);
  };

  return (
    <main>
      <p id="state">{chat.isLoading ? "busy" : "idle"}</p>
      <p id="error">{chat.error ? String(chat.error) : ""}</p>
      <ol>
        {chat.messages.map((message) => {
          const seen = chat.getMessagesMetadata(message);
          const checkpoint = seen?.firstSeenState?.parent_checkpoint;
          return (
            <li key={message.id} className={message.type}>
              <span>{message.content}</span>
              {message.type === "human" ? (
                <button className="edit" onClick={() => say({ checkpoint })}>
                  edit
                </button>
              ) : (
                <button className="again" onClick={() => chat.submit(undefined, { checkpoint })}>
                  regenerate
                </button>
              )}
              {(seen?.branchOptions ?? []).map((branch, number) => (
                <button key={branch} className="branch" onClick={() => chat.setBranch(branch)}>
                  {number + 1}
                </button>
              ))}
            </li>
          );
        })}
      </ol>
      <input id="draft" value={draft} onChange={(event) => setDraft(event.target.value)} />
      <button id="send" onClick={() => say()}>
        send
      </button>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<Chat />);
