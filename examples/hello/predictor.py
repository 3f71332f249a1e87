import openbayes_serving as serv


class Predictor:
    def predict(self, json):
        return {"message": f"Hello, {json['name']}!"}


if __name__ == "__main__":
    serv.run(Predictor)
