import time

import openbayes_serving as serv


class Predictor:
    def predict(self, json):
        """Answer word by word, as a language model would; each is sent as soon as it is known."""
        for number, word in enumerate(json["prompt"].split()[:10]):
            if number:
                time.sleep(0.05)  # the thinking
            yield {"token": word}


if __name__ == "__main__":
    serv.run(Predictor)
